// Draws one picture, or a part of one, as a rectangle. No colour conversion: bytes in, the same bytes out.

struct Quad {
    // Left, top, right, bottom in normalized device coordinates.
    @location(0) rect: vec4f,
    // The same in texture coordinates.
    @location(1) uv: vec4f,
    // Opacity, screen pixels per texel, texture width, texture height.
    @location(2) params: vec4f,
}

struct Varying {
    @builtin(position) position: vec4f,
    @location(0) uv: vec2f,
    @location(1) @interpolate(flat) params: vec4f,
}

@group(0) @binding(0) var picture: texture_2d<f32>;
@group(0) @binding(1) var smooth_sampler: sampler;

@vertex
fn vertex(@builtin(vertex_index) index: u32, quad: Quad) -> Varying {
    let corner = vec2f(f32(index & 1u), f32(index >> 1u));
    var out: Varying;
    out.position = vec4f(mix(quad.rect.xy, quad.rect.zw, corner), 0.0, 1.0);
    out.uv = mix(quad.uv.xy, quad.uv.zw, corner);
    out.params = quad.params;
    return out;
}

@fragment
fn fragment(in: Varying) -> @location(0) vec4f {
    let scale = in.params.y;
    let size = in.params.zw;
    // Magnified: smooth up to 3 screen pixels a texel, crisp squares with one-pixel edges from 8 on.
    let sharpness = mix(1.0, scale, smoothstep(3.0, 8.0, scale));
    let texel = in.uv * size - 0.5;
    let corner = floor(texel);
    let between = clamp((texel - corner - 0.5) * max(sharpness, 1.0) + 0.5, vec2f(0.0), vec2f(1.0));
    let uv = (corner + 0.5 + between) / size;
    // Minified: the mip level whose texels are as large as screen pixels.
    let level = max(0.0, -log2(scale));
    let colour = textureSampleLevel(picture, smooth_sampler, uv, level);
    return vec4f(colour.rgb, 1.0) * in.params.x;
}

// Halves a mip level: one bilinear sample between four texels.
@vertex
fn whole(@builtin(vertex_index) index: u32) -> Varying {
    let corner = vec2f(f32((index << 1u) & 2u), f32(index & 2u));
    var out: Varying;
    out.position = vec4f(corner * vec2f(2.0, -2.0) + vec2f(-1.0, 1.0), 0.0, 1.0);
    out.uv = corner;
    return out;
}

@fragment
fn halve(in: Varying) -> @location(0) vec4f {
    return textureSampleLevel(picture, smooth_sampler, in.uv, 0.0);
}
