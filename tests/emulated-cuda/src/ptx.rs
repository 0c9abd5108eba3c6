//! PTX text to statements: what the compiler wrote, with names in place of meanings.
//!
//! Grammar and names: NVIDIA, "Parallel Thread Execution ISA".

use std::collections::HashMap;

/// One operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, a special register, a label, a symbol or a number.
    Name(String),
    /// `[base+offset]`; the base is a register, a symbol or a number. Further parts follow where an instruction has some.
    Address(String, i64),
    /// `{a, b, ..}`
    Vector(Vec<Operand>),
    /// `p|q`
    Pair(String, String),
}

/// One instruction as written.
#[derive(Clone, Debug)]
pub struct Statement {
    /// `@p` or `@!p`.
    pub guard: Option<(String, bool)>,
    /// The opcode's parts: `ld.global.f32` is `[ld, global, f32]`.
    pub opcode: Vec<String>,
    /// What follows it.
    pub operands: Vec<Operand>,
    /// Scope of the register names, for blocks in braces.
    pub scope: usize,
}

/// A kernel as written.
#[derive(Debug, Default)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Name, offset and bytes of each parameter.
    pub params: Vec<(String, usize, usize)>,
    /// Registers by scope and name, with their declared type.
    pub registers: Vec<HashMap<String, String>>,
    /// The scope around each scope.
    pub parents: Vec<Option<usize>>,
    /// Instructions.
    pub statements: Vec<Statement>,
    /// Labels, by the number of the instruction that follows.
    pub labels: HashMap<String, usize>,
    /// Variables in shared memory: offset and bytes.
    pub shared: HashMap<String, (usize, usize)>,
    /// Bytes of shared memory that are known before the launch.
    pub shared_bytes: usize,
    /// Variables in local memory: offset and bytes.
    pub local: HashMap<String, (usize, usize)>,
    /// Bytes of local memory a thread.
    pub local_bytes: usize,
    /// Tables of labels for `brx.idx`.
    pub targets: HashMap<String, Vec<String>>,
}

/// A module as written.
#[derive(Debug, Default)]
pub struct Module {
    /// Its kernels.
    pub entries: Vec<Entry>,
    /// Variables in global or constant memory, with what they hold.
    pub globals: HashMap<String, Vec<u8>>,
}

/// Bytes of one value of a type.
pub fn bytes(ty: &str) -> Option<usize> {
    Some(match ty {
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 4,
        "b64" | "u64" | "s64" | "f64" | "f32x2" => 8,
        "b128" => 16,
        _ => return None,
    })
}

/// Reads a module.
pub fn parse(text: &str) -> Result<Module, String> {
    let text = without_comments(text);
    let mut module = Module::default();
    let mut rest = text.as_str();
    // Shared variables may stand outside kernels (`.extern .shared`).
    let mut outer_shared: Vec<(String, usize, usize)> = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(module);
        }
        let word = rest.split_whitespace().next().unwrap_or("");
        if matches!(word, ".version" | ".target" | ".address_size" | ".file") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if word == ".section" {
            rest = skip_block(rest)?;
        } else if let Some(head) = rest.find(['{', ';']) {
            let header = &rest[..head];
            if header.contains(".entry") {
                let body_start = rest[head..].starts_with('{');
                if !body_start {
                    return Err(format!("a kernel without a body: {header}"));
                }
                let end = matching(rest, head)?;
                module.entries.push(entry(header, &rest[head + 1..end], &outer_shared)?);
                rest = &rest[end + 1..];
            } else if header.contains(".func") {
                if rest[head..].starts_with('{') {
                    return Err(format!("a function that is not inlined: {}", header.trim()));
                }
                rest = &rest[head + 1..];
            } else {
                // A variable, whose initial value may be in braces.
                let end = rest.find(';').ok_or("a variable without an end")?;
                let declaration = &rest[..end];
                let (name, align, bytes, values) = variable(declaration)?;
                if declaration.contains(".shared") {
                    outer_shared.push((name, align, bytes));
                } else {
                    module.globals.insert(name, values);
                }
                rest = &rest[end + 1..];
            }
        } else {
            return Err(format!("unknown text: {}", &rest[..rest.len().min(60)]));
        }
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/*") {
        out.push_str(&rest[..at]);
        rest = rest[at..].find("*/").map_or("", |end| &rest[at + end + 2..]);
    }
    out.push_str(rest);
    out.lines().map(|line| line.split_once("//").map_or(line, |(before, _)| before)).fold(
        String::new(),
        |mut all, line| {
            all.push_str(line);
            all.push('\n');
            all
        },
    )
}

fn matching(text: &str, open: usize) -> Result<usize, String> {
    let mut depth = 0;
    for (at, c) in text[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Ok(open + at);
                }
            }
            _ => {}
        }
    }
    Err("a brace that is not closed".into())
}

fn skip_block(text: &str) -> Result<&str, String> {
    let open = text.find('{').ok_or("a section without a body")?;
    Ok(&text[matching(text, open)? + 1..])
}

/// Name, alignment, bytes and initial bytes of a variable.
fn variable(declaration: &str) -> Result<(String, usize, usize, Vec<u8>), String> {
    let wrong = || format!("a variable that is not understood: {declaration}");
    let (left, value) = declaration.split_once('=').map_or((declaration, None), |(l, r)| (l, Some(r)));
    let mut align = 1;
    let mut size = None;
    let mut name = None;
    let mut words = left.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word == ".align" {
            align = words.next().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        } else if let Some(ty) = word.strip_prefix('.') {
            size = bytes(ty).or(size);
        } else {
            name = Some(word);
        }
    }
    let (name, size) = (name.ok_or_else(wrong)?, size.ok_or_else(wrong)?);
    let (name, count) = match name.split_once('[') {
        Some((name, count)) => (name, count.trim_end_matches(']').parse().unwrap_or(0)),
        None => (name, 1),
    };
    let mut values = vec![0; size * count];
    if let Some(value) = value {
        let list = value.trim().trim_start_matches('{').trim_end_matches('}');
        for (i, item) in list.split(',').enumerate() {
            let number = number(item.trim()).ok_or_else(wrong)?;
            values[i * size..(i + 1) * size].copy_from_slice(&number.to_le_bytes()[..size]);
        }
    }
    Ok((name.to_owned(), align.max(size), size * count, values))
}

/// The bits of a number as written. `0f` and `0d` give the bits of floats.
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim_end_matches('U');
    if let Some(hex) = text.strip_prefix("0f").or_else(|| text.strip_prefix("0F")) {
        return u32::from_str_radix(hex, 16).ok().map(u64::from);
    }
    if let Some(hex) = text.strip_prefix("0d").or_else(|| text.strip_prefix("0D")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    if let Some(digits) = text.strip_prefix('-') {
        return number(digits).map(u64::wrapping_neg);
    }
    text.parse().ok()
}

fn entry(header: &str, body: &str, outer_shared: &[(String, usize, usize)]) -> Result<Entry, String> {
    let mut entry = Entry::default();
    let after = header.split_once(".entry").ok_or("no name")?.1.trim();
    let (name, params) = after.split_once('(').unwrap_or((after, ""));
    entry.name = name.split_whitespace().next().unwrap_or("").to_owned();
    let mut offset = 0usize;
    let params = params.rsplit_once(')').map_or(params, |(inside, _)| inside);
    for param in params.split(',').filter(|p| !p.trim().is_empty()) {
        // `.param .u64 .ptr .global .align 1 name`: the alignment after `.ptr` is the pointee's.
        let (before, after_ptr) = param.split_once(".ptr").map_or((param, None), |(b, a)| (b, Some(a)));
        let text = match after_ptr {
            Some(after) => format!("{before} {}", after.split_whitespace().last().unwrap_or("")),
            None => before.to_owned(),
        };
        let (name, align, size, _) = variable(&text)?;
        offset = offset.next_multiple_of(align);
        entry.params.push((name, offset, size));
        offset += size;
    }
    for (name, align, size) in outer_shared {
        let at = entry.shared_bytes.next_multiple_of(*align);
        entry.shared.insert(name.clone(), (at, *size));
        entry.shared_bytes = at + size;
    }
    entry.registers.push(HashMap::new());
    entry.parents.push(None);
    block(&mut entry, body, 0)?;
    // A name that is declared without a size is the launch's own part, behind all others.
    for (name, _, size) in outer_shared {
        if *size == 0 {
            let at = entry.shared_bytes.next_multiple_of(128);
            entry.shared.insert(name.clone(), (at, 0));
        }
    }
    Ok(entry)
}

fn block(entry: &mut Entry, text: &str, scope: usize) -> Result<(), String> {
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(());
        }
        if rest.starts_with('{') {
            let end = matching(rest, 0)?;
            entry.registers.push(HashMap::new());
            entry.parents.push(Some(scope));
            let inner = entry.registers.len() - 1;
            block(entry, &rest[1..end], inner)?;
            rest = &rest[end + 1..];
            continue;
        }
        if [".loc", ".pragma", ".file"].iter().any(|word| rest.split_whitespace().next() == Some(word)) {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        // A label ends in ':' before anything else does.
        let word_end = rest.find(|c: char| !(c.is_alphanumeric() || "$_.".contains(c))).unwrap_or(rest.len());
        let behind = rest[word_end..].trim_start();
        if behind.starts_with(':') && !behind.starts_with("::") && !rest.starts_with('.') {
            let label = &rest[..word_end];
            let after = rest[word_end..].trim_start();
            rest = &after[1..];
            if let Some(list) = rest.trim_start().strip_prefix(".branchtargets") {
                let (list, after) = list.split_once(';').ok_or("branch targets without an end")?;
                entry
                    .targets
                    .insert(label.to_owned(), list.split(',').map(|l| l.trim().to_owned()).collect());
                rest = after;
            } else {
                entry.labels.insert(label.to_owned(), entry.statements.len());
            }
            continue;
        }
        let (line, after) =
            rest.split_once(';').ok_or_else(|| format!("no end: {}", &rest[..rest.len().min(80)]))?;
        rest = after;
        let line = line.trim();
        if let Some(list) = line.strip_prefix(".reg") {
            registers(entry, list.trim(), scope)?;
        } else if line.starts_with(".shared") || line.starts_with(".local") {
            let (name, align, size, _) = variable(line)?;
            let (table, total) = if line.starts_with(".shared") {
                (&mut entry.shared, &mut entry.shared_bytes)
            } else {
                (&mut entry.local, &mut entry.local_bytes)
            };
            let at = total.next_multiple_of(align);
            table.insert(name, (at, size));
            *total = at + size;
        } else if line.starts_with('.') {
            return Err(format!("a directive that is not understood: {line}"));
        } else {
            let statement = statement(line, scope)?;
            entry.statements.push(statement);
        }
    }
}

fn registers(entry: &mut Entry, list: &str, scope: usize) -> Result<(), String> {
    let (ty, names) = list.split_once(char::is_whitespace).ok_or("registers without names")?;
    let ty = ty.trim_start_matches('.');
    for name in names.split(',').map(str::trim) {
        let table = &mut entry.registers[scope];
        if let Some((stem, count)) = name.split_once('<') {
            let count: usize =
                count.trim_end_matches('>').parse().map_err(|_| format!("registers: {list}"))?;
            for i in 0..count {
                table.insert(format!("{stem}{i}"), ty.to_owned());
            }
        } else {
            table.insert(name.to_owned(), ty.to_owned());
        }
    }
    Ok(())
}

fn statement(line: &str, scope: usize) -> Result<Statement, String> {
    let (guard, line) = match line.strip_prefix('@') {
        Some(rest) => {
            let (guard, rest) =
                rest.split_once(char::is_whitespace).ok_or("a guard without an instruction")?;
            let negated = guard.starts_with('!');
            (Some((guard.trim_start_matches('!').to_owned(), negated)), rest.trim())
        }
        None => (None, line),
    };
    let (opcode, operands) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let opcode = opcode.split('.').flat_map(|part| part.split("::").map(str::to_owned)).collect();
    let operands = split_operands(operands).into_iter().map(|o| operand(&o)).collect::<Result<_, _>>()?;
    Ok(Statement { guard, opcode, operands, scope })
}

fn split_operands(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (mut depth, mut current) = (0, String::new());
    for c in text.chars() {
        match c {
            '{' | '[' | '(' => depth += 1,
            '}' | ']' | ')' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            all.push(std::mem::take(&mut current));
        } else {
            current.push(c);
        }
    }
    all.push(current);
    all.into_iter().map(|o| o.trim().to_owned()).filter(|o| !o.is_empty()).collect()
}

fn operand(text: &str) -> Result<Operand, String> {
    if let Some(inside) = text.strip_prefix('{') {
        let inside = inside.strip_suffix('}').ok_or("a vector without an end")?;
        return Ok(Operand::Vector(
            split_operands(inside).iter().map(|o| operand(o)).collect::<Result<_, _>>()?,
        ));
    }
    if let Some(inside) = text.strip_prefix('[') {
        let inside = inside.strip_suffix(']').ok_or("an address without an end")?;
        if inside.contains(',') {
            return Ok(Operand::Vector(
                split_operands(inside).iter().map(|o| operand(o)).collect::<Result<_, _>>()?,
            ));
        }
        let (base, offset) = match inside.rfind('+') {
            Some(at) => (
                &inside[..at],
                number(inside[at + 1..].trim()).ok_or_else(|| format!("offset: {text}"))? as i64,
            ),
            None => (inside, 0),
        };
        return Ok(Operand::Address(base.trim().to_owned(), offset));
    }
    if let Some((left, right)) = text.split_once('|') {
        return Ok(Operand::Pair(left.trim().to_owned(), right.trim().to_owned()));
    }
    Ok(Operand::Name(text.to_owned()))
}
