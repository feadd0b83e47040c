//! The subset of Python's pickle that `torch.save` uses for tensors in lists and dictionaries, and TorchScript for modules.
//! Executes nothing: the only callables it knows are the few below, and it builds their results itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use safetensors::Dtype;

use super::contiguous_strides;

/// A block of numbers that tensors are views of.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub key: String,
    pub dtype: Dtype,
    pub numel: usize,
}

/// A view of a storage; offset and strides in elements.
#[derive(Clone, Debug)]
pub(super) struct TensorView {
    pub storage: Storage,
    pub offset: usize,
    pub shape: Vec<i64>,
    pub strides: Vec<i64>,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Bytes,
    Tuple(Vec<Value>),
    List(Rc<RefCell<Vec<Value>>>),
    Dict(Rc<RefCell<Vec<(Value, Value)>>>),
    /// Of TorchScript: a dictionary of attributes.
    Module(Rc<RefCell<Vec<(Value, Value)>>>),
    Global(String),
    Storage(Storage),
    Tensor(TensorView),
}

/// Tensors cannot nest deeper than this; a file that claims so is refused rather than followed.
const DEEPEST: usize = 32;
/// Nor are there more values than this, however often some are named.
const MOST: usize = 1 << 22;

impl Value {
    /// All tensors in this value with their dotted path. Numbers and texts beside them are passed over.
    pub(super) fn tensors(&self) -> Result<Vec<(String, TensorView)>, String> {
        let mut found = Vec::new();
        self.collect("", 0, &mut 0, &mut found)?;
        Ok(found)
    }

    fn collect(
        &self,
        path: &str,
        depth: usize,
        visited: &mut usize,
        found: &mut Vec<(String, TensorView)>,
    ) -> Result<(), String> {
        *visited += 1;
        if depth > DEEPEST || *visited > MOST {
            return Err("its lists nest too deeply".into());
        }
        let inside = |key: &dyn std::fmt::Display| {
            if path.is_empty() { key.to_string() } else { format!("{path}.{key}") }
        };
        match self {
            Value::Tensor(view) => found.push((path.to_owned(), view.clone())),
            Value::Tuple(items) => {
                for (i, item) in items.iter().enumerate() {
                    item.collect(&inside(&i), depth + 1, visited, found)?;
                }
            }
            Value::List(items) => {
                for (i, item) in items.borrow().iter().enumerate() {
                    item.collect(&inside(&i), depth + 1, visited, found)?;
                }
            }
            Value::Dict(items) | Value::Module(items) => {
                for (key, value) in items.borrow().iter() {
                    match key {
                        Value::Text(key) => value.collect(&inside(key), depth + 1, visited, found)?,
                        Value::Int(key) => value.collect(&inside(key), depth + 1, visited, found)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn int(&self) -> Result<i64, String> {
        match self {
            Value::Int(value) => Ok(*value),
            other => Err(format!("expected a whole number, found {}", other.name())),
        }
    }

    fn ints(&self) -> Result<Vec<i64>, String> {
        match self {
            Value::Tuple(items) => items.iter().map(Value::int).collect(),
            other => Err(format!("expected a tuple of numbers, found {}", other.name())),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool => "a bool",
            Value::Int(_) => "an int",
            Value::Float => "a float",
            Value::Text(_) => "a str",
            Value::Bytes => "bytes",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Module(_) => "a module",
            Value::Global(_) => "a class",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// Reads one pickle from the front of `bytes`; returns its value and the number of bytes it took.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, usize), String> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let value = machine.run()?;
    Ok((value, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Value, String> {
        loop {
            let opcode = self.take::<1>()?[0];
            match opcode {
                0x80 => _ = self.take::<1>()?,                                        // PROTO
                0x95 => _ = self.take::<8>()?,                                        // FRAME
                b'.' => return self.pop(),                                            // STOP
                b'(' => self.marks.push(self.stack.len()),                            // MARK
                b'0' => _ = self.pop()?,                                              // POP
                b'N' => self.stack.push(Value::None),                                 // NONE
                0x88 | 0x89 => self.stack.push(Value::Bool),                          // NEWTRUE, NEWFALSE
                b'J' => self.push_int(|m| Ok(i32::from_le_bytes(m.take()?).into()))?, // BININT
                b'K' => self.push_int(|m| Ok(m.take::<1>()?[0].into()))?,             // BININT1
                b'M' => self.push_int(|m| Ok(u16::from_le_bytes(m.take()?).into()))?, // BININT2
                0x8a => self.push_int(Self::long1)?,                                  // LONG1
                b'G' => {
                    self.take::<8>()?; // BINFLOAT
                    self.stack.push(Value::Float);
                }
                b'X' => self.push_text(|m| Ok(u32::from_le_bytes(m.take()?) as usize))?, // BINUNICODE
                0x8c | b'U' => self.push_text(|m| Ok(m.take::<1>()?[0].into()))?, // SHORT_BINUNICODE, SHORT_BINSTRING
                b'T' => self.push_text(|m| Ok(u32::from_le_bytes(m.take()?) as usize))?, // BINSTRING
                b'C' => {
                    let length = self.take::<1>()?[0].into(); // SHORT_BINBYTES
                    self.slice(length)?;
                    self.stack.push(Value::Bytes);
                }
                b')' => self.stack.push(Value::Tuple(Vec::new())), // EMPTY_TUPLE
                0x81 => {
                    // NEWOBJ: a module of TorchScript, whose attributes follow.
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    self.stack.push(new_module(&class, &arguments)?);
                }
                b']' => self.stack.push(Value::List(Rc::default())), // EMPTY_LIST
                b'}' => self.stack.push(Value::Dict(Rc::default())), // EMPTY_DICT
                b't' => {
                    let items = self.pop_to_mark()?; // TUPLE
                    self.stack.push(Value::Tuple(items));
                }
                0x85..=0x87 => {
                    let from = self.stack.len().checked_sub(usize::from(opcode - 0x84)); // TUPLE1, TUPLE2, TUPLE3
                    let items = self.stack.split_off(from.ok_or("the pickle's stack ran empty")?);
                    self.stack.push(Value::Tuple(items));
                }
                b'a' => {
                    let item = self.pop()?; // APPEND
                    self.extend(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?; // APPENDS
                    self.extend(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?); // SETITEM
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?; // SETITEMS
                    self.set_items(items)?;
                }
                b'q' => {
                    let slot = self.take::<1>()?[0].into(); // BINPUT
                    self.memo.insert(slot, self.top()?.clone());
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.take()?) as usize; // LONG_BINPUT
                    self.memo.insert(slot, self.top()?.clone());
                }
                0x94 => {
                    let slot = self.memo.len(); // MEMOIZE
                    self.memo.insert(slot, self.top()?.clone());
                }
                b'h' => {
                    let slot = self.take::<1>()?[0].into(); // BINGET
                    self.recall(slot)?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.take()?) as usize; // LONG_BINGET
                    self.recall(slot)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?); // GLOBAL
                    self.stack.push(Value::Global(format!("{module}.{name}")));
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => {
                        self.stack.push(Value::Global(format!("{module}.{name}")))
                    }
                    _ => return Err("a class without a name".into()), // STACK_GLOBAL
                },
                b'Q' => {
                    let id = self.pop()?; // BINPERSID
                    self.stack.push(Value::Storage(storage(&id)?));
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?); // REDUCE
                    self.stack.push(call(&callable, arguments)?);
                }
                b'b' => {
                    // BUILD: a module's attributes; those of a state_dict (`_metadata`) are not needed.
                    let attributes = self.pop()?;
                    match (self.top()?, attributes) {
                        (Value::Module(module), Value::Dict(attributes)) => *module.borrow_mut() = attributes.take(),
                        (Value::Dict(_), _) => {}
                        (other, _) => return Err(format!("it wants to set attributes of {}", other.name())),
                    }
                }
                other => return Err(format!("its pickle uses opcode {other:#04x}, which tensors do not need")),
            }
        }
    }

    fn slice(&mut self, length: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("its pickle ends early (truncated?)")?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut taken = [0; N];
        taken.copy_from_slice(self.slice(N)?);
        Ok(taken)
    }

    fn line(&mut self) -> Result<String, String> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let line = self.slice(length.ok_or("its pickle ends early (truncated?)")?)?.to_vec();
        self.at += 1;
        String::from_utf8(line).map_err(|_| "its pickle has a name that is no text".into())
    }

    fn long1(&mut self) -> Result<i64, String> {
        let length = self.take::<1>()?[0].into();
        let bytes = self.slice(length)?;
        if bytes.len() > 8 {
            // The magic number of the old format: larger than any size, never used as one.
            return Ok(i64::MAX);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut value = if negative { [0xff; 8] } else { [0; 8] };
        value[..bytes.len()].copy_from_slice(bytes);
        Ok(i64::from_le_bytes(value))
    }

    fn push_int(&mut self, read: impl FnOnce(&mut Self) -> Result<i64, String>) -> Result<(), String> {
        let value = read(self)?;
        self.stack.push(Value::Int(value));
        Ok(())
    }

    fn push_text(&mut self, length: impl FnOnce(&mut Self) -> Result<usize, String>) -> Result<(), String> {
        let length = length(self)?;
        let text = String::from_utf8_lossy(self.slice(length)?).into_owned();
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "its pickle's stack ran empty".into())
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "its pickle's stack ran empty".into())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("its pickle has no mark where one belongs")?))
    }

    fn recall(&mut self, slot: usize) -> Result<(), String> {
        let value = self.memo.get(&slot).ok_or("its pickle recalls what it never stored")?.clone();
        self.stack.push(value);
        Ok(())
    }

    fn extend(&mut self, items: Vec<Value>) -> Result<(), String> {
        match self.top()? {
            Value::List(list) => list.borrow_mut().extend(items),
            other => return Err(format!("its pickle appends to {}", other.name())),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), String> {
        let Value::Dict(dict) = self.top()? else {
            return Err(format!("its pickle sets items of {}", self.top()?.name()));
        };
        let mut dict = dict.borrow_mut();
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            dict.push((key, value));
        }
        Ok(())
    }
}

/// An empty module of the names that TorchScript gives to compiled classes.
fn new_module(class: &Value, arguments: &Value) -> Result<Value, String> {
    match (class, arguments) {
        (Value::Global(name), Value::Tuple(arguments)) if name.starts_with("__torch__.") && arguments.is_empty() => {
            Ok(Value::Module(Rc::default()))
        }
        (Value::Global(name), _) => Err(format!("its pickle wants to make a {name}, which is not allowed")),
        _ => Err("its pickle makes something that is of no class".into()),
    }
}

/// `('storage', torch.FloatStorage, key, location, numel)`; the location (`cpu`, `cuda:1`) does not matter here.
fn storage(id: &Value) -> Result<Storage, String> {
    let Value::Tuple(items) = id else { return Err("a storage without a description".into()) };
    let [Value::Text(_), Value::Global(class), Value::Text(key), _location, numel, ..] = &items[..] else {
        return Err("a storage with an unknown description".into());
    };
    let dtype = match class.as_str() {
        "torch.FloatStorage" => Dtype::F32,
        "torch.HalfStorage" => Dtype::F16,
        "torch.BFloat16Storage" => Dtype::BF16,
        "torch.DoubleStorage" => Dtype::F64,
        "torch.LongStorage" => Dtype::I64,
        "torch.IntStorage" => Dtype::I32,
        "torch.ShortStorage" => Dtype::I16,
        "torch.CharStorage" => Dtype::I8,
        "torch.ByteStorage" => Dtype::U8,
        "torch.BoolStorage" => Dtype::BOOL,
        other => return Err(format!("it has a storage of the unknown type {other}")),
    };
    let numel = usize::try_from(numel.int()?).map_err(|_| "a storage of negative size")?;
    Ok(Storage { key: key.clone(), dtype, numel })
}

const TYPED_LISTS: [&str; 4] = [
    "torch.jit._pickle.build_intlist",
    "torch.jit._pickle.build_doublelist",
    "torch.jit._pickle.build_boollist",
    "torch.jit._pickle.build_tensorlist",
];

/// The only callables a tensor file needs; anything else is refused by name.
fn call(callable: &Value, arguments: Value) -> Result<Value, String> {
    let (Value::Global(name), Value::Tuple(arguments)) = (callable, arguments) else {
        return Err("its pickle calls something that is no function".into());
    };
    match (name.as_str(), &arguments[..]) {
        ("torch._utils._rebuild_tensor_v2", [Value::Storage(storage), offset, shape, strides, ..])
        | ("torch._utils._rebuild_tensor", [Value::Storage(storage), offset, shape, strides]) => {
            let (shape, mut strides) = (shape.ints()?, strides.ints()?);
            let offset = usize::try_from(offset.int()?).map_err(|_| "a tensor with a negative offset")?;
            if shape.contains(&0) {
                strides = contiguous_strides(&shape);
            }
            if shape.len() != strides.len() {
                return Err(format!("a tensor with sizes {shape:?} but strides {strides:?}"));
            }
            Ok(Value::Tensor(TensorView { storage: storage.clone(), offset, shape, strides }))
        }
        ("torch._utils._rebuild_parameter", [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
        ("collections.OrderedDict", []) => Ok(Value::Dict(Rc::default())),
        ("torch.Size", [sizes]) => Ok(sizes.clone()),
        // TorchScript says of lists and dictionaries what they hold.
        (name, [list @ Value::List(_)]) if TYPED_LISTS.contains(&name) => Ok(list.clone()),
        ("torch.jit._pickle.restore_type_tag", [value, _]) => Ok(value.clone()),
        _ => Err(format!("its pickle wants to call {name}, which is not allowed: only tensors are read")),
    }
}
