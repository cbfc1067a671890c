//! CEL expressions over a message: compiled once, bounded in length, depth and work.

mod nesting;
mod values;

use std::fmt;
use std::hash::{Hash, Hasher};

use cel::common::ast::{EntryExpr, Expr};
use cel::{Context, IdedExpr, Program, Value};

use super::message::Message;
pub use values::{MessageValues, ValuesOnce};

/// The longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 1_000;
/// The deepest nesting of an expression's syntax tree; evaluation recurses this deep.
pub const EXPRESSION_DEPTH_MAX: usize = 100;
/// Brackets and conditions (`a ? b : c`) within each other: the parser recurses for each of them, on the stack of the
/// request.
pub const EXPRESSION_OPEN_MAX: usize = 24;

/// Parts of `data` and `metadata` that are put together, by `+` or in a list or a map. Each may be a list as large as a
/// message, which every step copies.
pub const EXPRESSION_PARTS_MAX: usize = 8;

/// The variables that an expression may use.
const VARIABLES: [&str; 8] =
    ["type", "data", "metadata", "stream_name", "category", "position", "global_position", "time"];
/// The functions that an expression may call, beside operators.
const FUNCTIONS: [&str; 11] =
    ["size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string", "bool", "bytes", "dyn"];

/// Why an expression is refused when it is given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// The text has nothing but white space.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`EXPRESSION_BYTES_MAX`].
    #[error("must be at most {EXPRESSION_BYTES_MAX} bytes, not {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A string literal in it has U+0000.
    #[error("must not contain the character U+0000: PostgreSQL cannot store it")]
    NulCharacter,
    /// Its syntax tree is deeper than [`EXPRESSION_DEPTH_MAX`].
    #[error("must not nest deeper than {EXPRESSION_DEPTH_MAX} levels")]
    TooDeep,
    /// More than [`EXPRESSION_OPEN_MAX`] brackets and conditions are open at one place.
    #[error("must not have more than {EXPRESSION_OPEN_MAX} brackets and conditions within each other")]
    TooManyOpen,
    /// More than [`EXPRESSION_PARTS_MAX`] parts of a message are put together.
    #[error(
        "must not put more than {EXPRESSION_PARTS_MAX} parts of data and metadata together, by + or in a list or a map; what is in int(), double() or size() does not count"
    )]
    TooManyParts,
    /// The parser refuses it.
    #[error("is not CEL: line {line}, column {column}: {message}")]
    Syntax {
        /// Where, from 1.
        line: isize,
        /// Where, from 1.
        column: isize,
        /// What the parser says.
        message: String,
    },
    /// It has a macro that loops over a list.
    #[error("must not loop: all, exists, exists_one, map and filter are refused, because nothing bounds their work")]
    Comprehension,
    /// It uses a name that is not one of the message's fields.
    #[error(
        "uses the unknown name `{name}`; the known names are type, data, metadata, stream_name, category, position, global_position and time"
    )]
    UnknownVariable {
        /// The name that is not a variable.
        name: String,
    },
    /// It calls a function that is not on the list.
    #[error(
        "calls the unknown function `{name}`; the known functions are size, contains, startsWith, endsWith, int, uint, double, string, bool, bytes, dyn and has"
    )]
    UnknownFunction {
        /// The name that is not a function.
        name: String,
    },
}

/// A compiled expression. Cheap to share; evaluated on any thread.
pub struct Expression {
    source: String,
    program: Program,
    uses: [bool; VARIABLES.len()],
}

impl Expression {
    /// Compiles an expression, or says which rule its text breaks.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        if source.trim().is_empty() {
            return Err(ExpressionError::Empty);
        }
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(ExpressionError::TooLong { bytes: source.len() });
        }
        nesting::check(source)?;
        let program = parse(source)?;
        check_depth(program.expression())?;
        // CEL allows NUL in a string literal.
        if source.contains('\0') {
            return Err(ExpressionError::NulCharacter);
        }
        check_tree(program.expression())?;
        let references = program.references();
        for name in references.variables() {
            if !VARIABLES.contains(&name) {
                return Err(ExpressionError::UnknownVariable { name: name.into() });
            }
        }
        for name in references.functions() {
            let is_operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
            if !is_operator && !FUNCTIONS.contains(&name) {
                return Err(ExpressionError::UnknownFunction { name: name.into() });
            }
        }
        let uses = VARIABLES.map(|name| references.has_variable(name));
        Ok(Self { source: source.into(), program, uses })
    }

    /// The text that was compiled.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the message passes. A message on which the expression fails (a missing field, other types) or that
    /// gives something else than a boolean does not pass: streams hold messages of many shapes.
    pub fn passes(&self, message: &Message) -> bool {
        matches!(self.evaluate(message), Ok(Value::Bool(true)))
    }

    /// The expression's value for this message, or why it has none.
    pub fn evaluate(&self, message: &Message) -> Result<Value, String> {
        thread_local! {
            // Building the functions of the root context takes longer than most evaluations.
            static ROOT: Context<'static, 'static> = Context::default();
        }
        ROOT.with(|root| {
            let mut scope = root.new_inner_scope();
            for (name, _) in VARIABLES.iter().zip(self.uses).filter(|(_, used)| *used) {
                scope.add_variable_from_value(*name, variable(message, name));
            }
            self.program.execute(&scope).map_err(|error| error.to_string())
        })
    }
}

/// The same text means the same.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Expression {}

impl Hash for Expression {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.source.hash(state);
    }
}

fn variable(message: &Message, name: &str) -> Value {
    match name {
        "type" => (&*message.message_type).into(),
        "data" => message.values().data.clone(),
        "metadata" => message.values().metadata.clone(),
        "stream_name" => (&*message.stream_name).into(),
        "category" => message.category().into(),
        "position" => Value::Int(message.position),
        "global_position" => Value::Int(message.global_position),
        "time" => message.time.to_rfc3339().into(),
        _ => Value::Null,
    }
}

fn parse(source: &str) -> Result<Program, ExpressionError> {
    Program::compile(source).map_err(|errors| {
        let first = errors.errors.first();
        // The parser has a limit of its own, with a message of its own.
        if first.is_some_and(|error| error.msg.contains("Recursion limit")) {
            return ExpressionError::TooDeep;
        }
        ExpressionError::Syntax {
            line: first.map_or(1, |error| error.pos.0),
            column: first.map_or(1, |error| error.pos.1),
            message: first.map_or_else(|| errors.to_string(), |error| error.msg.clone()),
        }
    })
}

fn check_depth(root: &IdedExpr) -> Result<(), ExpressionError> {
    let mut open = vec![(root, 1)];
    while let Some((node, depth)) = open.pop() {
        if depth > EXPRESSION_DEPTH_MAX {
            return Err(ExpressionError::TooDeep);
        }
        open.extend(children(node).into_iter().map(|child| (child, depth + 1)));
    }
    Ok(())
}

fn check_tree(root: &IdedExpr) -> Result<(), ExpressionError> {
    let (mut open, mut parts) = (vec![(root, false)], 0);
    while let Some((node, is_together)) = open.pop() {
        let is_together = match &node.expr {
            Expr::Comprehension(_) => return Err(ExpressionError::Comprehension),
            Expr::List(_) | Expr::Map(_) | Expr::Struct(_) => true,
            Expr::Call(call) if call.func_name == "_+_" => true,
            // What these give may be one of their operands; all others give a number, a text or a boolean.
            Expr::Call(call) => is_together && ["_?_:_", "_[_]", "dyn"].contains(&call.func_name.as_str()),
            Expr::Ident(name) if is_together && ["data", "metadata"].contains(&name.as_str()) => {
                parts += 1;
                false
            }
            _ => is_together,
        };
        open.extend(children(node).into_iter().map(|child| (child, is_together)));
    }
    if parts > EXPRESSION_PARTS_MAX { Err(ExpressionError::TooManyParts) } else { Ok(()) }
}

fn children(node: &IdedExpr) -> Vec<&IdedExpr> {
    match &node.expr {
        Expr::Call(call) => call.target.iter().map(|target| &**target).chain(&call.args).collect(),
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::Map(map) => map.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Struct(fields) => fields.entries.iter().flat_map(|entry| entry_children(&entry.expr)).collect(),
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) | Expr::Comprehension(_) => Vec::new(),
    }
}

fn entry_children(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Expression").field(&self.source).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::MessageParts;
    use crate::domain::time::Timestamp;

    fn message(data: &str) -> Message {
        Message::new(MessageParts {
            stream_name: "order-7",
            message_type: "Placed",
            position: 3,
            global_position: 9,
            data: Some(data),
            metadata: Some(r#"{"user": "ann"}"#),
            time: Timestamp::parse_rfc3339("2026-11-20T12:00:00Z").unwrap(),
            ..MessageParts::EXAMPLE
        })
    }

    fn passes(expression: &str, data: &str) -> bool {
        Expression::compile(expression).unwrap().passes(&message(data))
    }

    #[test]
    fn everything_a_message_has_can_be_named() {
        let expression = "type == 'Placed' && stream_name == 'order-7' && category == 'order' && position == 3 \
            && global_position == 9 && metadata.user == 'ann' && data.sku == 'X1' && time >= '2026-11-20'";
        assert!(passes(expression, r#"{"sku": "X1"}"#));
    }

    #[test]
    fn integers_stay_integers() {
        assert!(passes("data.num % 3 == 2", r#"{"num": 176}"#));
        assert!(passes("data.num % 3 == -1", r#"{"num": -7}"#));
        assert!(passes("data.num == 9223372036854775807", r#"{"num": 9223372036854775807}"#));
        assert!(passes("data.price > 1.5", r#"{"price": 1.75}"#));
    }

    #[test]
    fn what_fails_or_is_no_boolean_does_not_pass() {
        assert!(!passes("data.missing == 1", "{}"));
        assert!(!passes("has(data.missing)", "{}"));
        assert!(passes("has(data.there) && data.there", r#"{"there": true}"#));
        assert!(!passes("data.num % 3", r#"{"num": 1}"#));
        assert!(!passes("data.name > 3", r#"{"name": "x"}"#));
        assert!(!passes("1 / 0 == 1", "null"));
    }

    #[test]
    fn every_function_on_the_list_works() {
        for expression in [
            "size(data.s) == 3",
            "data.s.contains('b')",
            "data.s.startsWith('a')",
            "data.s.endsWith('c')",
            "int('3') == 3",
            "uint(3) == 3u",
            "double(3) == 3.0",
            "string(3) == '3'",
            "bool('true')",
            "size(bytes('ab')) == 2",
            "dyn(3) == 3",
            "'a' in ['a', 'b']",
            "data['s'] == 'abc'",
            "data.l[1] == 2",
            "true ? true : false",
        ] {
            assert!(passes(expression, r#"{"s": "abc", "l": [1, 2]}"#), "{expression}");
        }
    }

    #[test]
    fn bad_expressions_are_refused_with_their_place() {
        let refused = |source: &str| Expression::compile(source).unwrap_err();
        assert_eq!(refused("  "), ExpressionError::Empty);
        assert!(matches!(refused("type == == 'A'"), ExpressionError::Syntax { line: 1, column: 9, .. }));
        assert_eq!(refused("data.items.all(i, i > 0)"), ExpressionError::Comprehension);
        assert_eq!(refused("true || [1].exists(x, x == 1)"), ExpressionError::Comprehension);
        assert_eq!(refused("dat.x == 1"), ExpressionError::UnknownVariable { name: "dat".into() });
        assert_eq!(refused("data.x.matches('a*')"), ExpressionError::UnknownFunction { name: "matches".into() });
        assert_eq!(refused(&"1".repeat(1_001)), ExpressionError::TooLong { bytes: 1_001 });
    }

    /// `+` copies lists, and a message may be one large list.
    #[test]
    fn parts_of_a_message_are_put_together_a_few_times_only() {
        let sum = |part: &str, count: usize| vec![part; count].join(" + ");
        for expression in [
            format!("{} > 10", sum("data.n", 8)),
            format!("{} > 10", sum("int(data.n)", 40)),
            format!("{} == 'x'", sum("type", 40)),
            format!("size({}) > 0 && data.n > 1 && data.m > 2", sum("data.l", 8)),
        ] {
            assert!(Expression::compile(&expression).is_ok(), "{expression}");
        }
        for expression in [
            format!("size({}) > 0", sum("data.l", 9)),
            format!("size([{}]) > 0", ["metadata['l']"; 9].join(", ")),
            format!("size({}) > 0", sum("(true ? dyn(data.l) : [data.m][0])", 5)),
        ] {
            assert_eq!(Expression::compile(&expression), Err(ExpressionError::TooManyParts), "{expression}");
        }
    }
}
