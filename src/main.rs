use chain_of_zoom::{image::*, train::*, models::*};
use tch::{Device,Kind};
fn main() -> anyhow::Result<()> {
    let a: Vec<String> = std::env::args().collect();
    if a[1] == "scenes" { let mut r = fastrand::Rng::with_seed(a[2].parse()?); let mut p = Picture::from_fn(1280,960,|_,_|[0;3]); let t=std::time::Instant::now(); for i in 0..12 { p.paste(&scenes::scene(&mut r, 320), (i%4)*320, (i/4)*320); } println!("{:?}", t.elapsed()/12); codec::save(&p, "/tmp/scenes.png".as_ref())?; }
    if a[1] == "train" { tch::set_num_threads(a[6].parse()?); fit::fit(&fit::Plan{features:a[3].parse()?,depth:a[4].parse()?,duration:std::time::Duration::from_secs_f64(a[5].parse::<f64>()?*60.0),seed:7}, a[2].as_ref(), |s,l,d| println!("{s} {l:.5} {d:.3}"))?; }
    if a[1] == "measure" { let w=Weights::open(a[2].as_ref())?; let n=SrvggNetCompact::load(&w,"",Device::Cpu,Kind::Float)?; let mut tot=0.0;
      for f in &a[3..] { let p=codec::open(f.as_ref())?; let (w,h)=(p.width()/4*4,p.height()/4*4); let p=p.crop(0,0,w,h); let s=resize(&p,w/4,h/4,Filter::Bicubic); let b=resize(&s,w,h,Filter::Bicubic);
       let t=std::time::Instant::now(); let o=tch::no_grad(||n.forward(&tensor::tensor_from_picture(&s,Device::Cpu)?))?; let o=tensor::picture_from_tensor(&o)?; let e=t.elapsed(); let (x,y)=(measure::luma_psnr(&p,&b,4),measure::luma_psnr(&p,&o,4)); println!("{f} bicubic {x:.2} ours {y:.2} {:+.2} {e:?}",y-x); tot+=y-x; } println!("mean {:+.3}", tot/(a.len()-3) as f64); }
    Ok(())
}
