//! Bounds how deep an expression nests, from its text alone: before a parser that recurses sees it.

use super::{EXPRESSION_DEPTH_MAX, EXPRESSION_OPEN_MAX, ExpressionError};

/// What is open at a place of the text.
#[derive(Default)]
struct Level {
    /// Conditions (`a ? b : c`) of this level: each is in the last branch of the one before it.
    conditions: usize,
    /// Operators, selections and brackets since the last operand of `&&`, `||`, a condition or a list began: each has the
    /// text before it (or after it, for a sign) as its operand.
    links: usize,
}

/// Refuses an expression that nests too deep. Brackets in strings and comments do not count.
pub(super) fn check(source: &str) -> Result<(), ExpressionError> {
    let mut levels = vec![Level::default()];
    let source = source.as_bytes();
    let mut at = 0;
    while at < source.len() {
        let outer = levels.len() - 1;
        let level = &mut levels[outer];
        let mut taken = 1;
        match source[at] {
            b'"' | b'\'' => taken = string_length(&source[at..], is_raw(&source[..at])),
            b'/' if source[at..].starts_with(b"//") => {
                taken = source[at..].iter().position(|byte| *byte == b'\n').unwrap_or(source.len());
            }
            b'(' | b'[' | b'{' => {
                level.links += 1;
                levels.push(Level::default());
            }
            // The parser says so of brackets that do not match.
            b')' | b']' | b'}' if outer > 0 => drop(levels.pop()),
            b'?' => {
                level.conditions += 1;
                level.links = 0;
            }
            b',' => *level = Level::default(),
            b':' | b'&' | b'|' => level.links = 0,
            b'.' | b'!' | b'-' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => level.links += 1,
            _ => {}
        }
        at += taken;
        let open = levels.len() - 1 + levels.iter().map(|level| level.conditions).sum::<usize>();
        if open > EXPRESSION_OPEN_MAX {
            return Err(ExpressionError::TooManyOpen);
        }
        // An operator may have two characters, so this is a loose bound; the depth of the tree is checked after parsing.
        if levels.iter().map(|level| level.links).sum::<usize>() > 2 * EXPRESSION_DEPTH_MAX {
            return Err(ExpressionError::TooDeep);
        }
    }
    Ok(())
}

/// Whether the string after this text is a raw one, such as `r'\d'` or `br"…"`.
fn is_raw(before: &[u8]) -> bool {
    let is_of_word = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
    let prefix = &before[before.len() - before.iter().rev().take_while(is_of_word).count()..];
    matches!(prefix.to_ascii_lowercase().as_slice(), b"r" | b"br" | b"rb")
}

/// How long the string literal at the beginning is, with its quotes; if it does not end, the whole text.
fn string_length(text: &[u8], is_raw: bool) -> usize {
    let quote = text[0];
    let closing: &[u8] = if text.starts_with(&[quote; 3]) { &[quote; 3] } else { &[quote] };
    let mut at = closing.len();
    while at < text.len() {
        if text[at..].starts_with(closing) {
            return at + closing.len();
        }
        at += if text[at] == b'\\' && !is_raw { 2 } else { 1 };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::expression::{EXPRESSION_BYTES_MAX, Expression};
    use crate::domain::message::{Message, MessageParts};

    /// As large as the stack of a thread that serves requests.
    const STACK_BYTES: usize = 2 << 20;

    /// Compiles and evaluates on an ordinary stack; one that is used up ends the whole process.
    fn on_an_ordinary_stack(sources: Vec<String>) {
        let work = move || {
            let message = Message::new(MessageParts { ..MessageParts::EXAMPLE });
            for source in sources {
                if let Ok(expression) = Expression::compile(&source) {
                    expression.passes(&message);
                }
            }
        };
        #[expect(clippy::disallowed_methods, reason = "it shows that the bound on the depth is enough")]
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn(work).unwrap().join().unwrap();
    }

    /// Each kind of nesting, as deep as asked for and as an expression's length allows.
    fn nested(deep: usize) -> Vec<String> {
        let around = |open: &str, inner: &str, close: &str| {
            let deep = deep.min((EXPRESSION_BYTES_MAX - inner.len()) / (open.len() + close.len()));
            format!("{}{inner}{}", open.repeat(deep), close.repeat(deep))
        };
        vec![
            around("(", "true", ")"),
            around("[", "1", "]"),
            around("{1:", "1", "}"),
            around("size(", "1", ")"),
            around("data[", "1", "]"),
            around("data.a.contains(", "1", ")"),
            around("([", "1", "])"),
            around("-(", "1", ")"),
            around("!(", "true", ")"),
            around("true?(", "true", "):true"),
            around("!", "true", ""),
            around("-", "1", ""),
            around("true?true:", "true", ""),
            around("true?", "true", ":true"),
            around("true||", "true", ""),
            around("true&&", "true", ""),
            around("1+", "1", ""),
            around("1==", "1", ""),
            around("", "data", ".a"),
            around("", "data", "[0]"),
            around(r"'\\'+", "''", ""),
            around("'('+", "''", ""),
            around("1<2==", "true", ""),
            around("1 in [", "1", "]"),
            // Without the other half.
            around("(", "", " "),
            around("a[", "", " "),
            around("'", "", " "),
        ]
    }

    #[test]
    fn nothing_that_nests_uses_up_an_ordinary_stack() {
        for deep in [1, 10, EXPRESSION_OPEN_MAX, EXPRESSION_OPEN_MAX + 1, 90, 200, EXPRESSION_BYTES_MAX] {
            on_an_ordinary_stack(nested(deep));
        }
    }

    #[test]
    fn what_people_write_is_taken() {
        for source in nested(10) {
            assert_eq!(check(&source), Ok(()), "{source}");
        }
        let kinds = (0..40).map(|kind| format!("data.kind=='k{kind}'")).collect::<Vec<_>>().join("||");
        let text = format!("data.text.contains('{}')", "(".repeat(200));
        let raw = format!(r#"data.a == r'\' || data.b == "\"{}""#, "(".repeat(50));
        let long = format!("'''(('({}''' == data.a // {}", "[".repeat(50), "(".repeat(50));
        for source in [kinds, text, raw, long] {
            assert_eq!(Expression::compile(&source).err(), None, "{source}");
        }
    }

    #[test]
    fn what_nests_too_deep_is_refused_by_its_text() {
        assert_eq!(check(&"(".repeat(EXPRESSION_OPEN_MAX + 1)), Err(ExpressionError::TooManyOpen));
        assert_eq!(check(&"a?b:".repeat(EXPRESSION_OPEN_MAX + 1)), Err(ExpressionError::TooManyOpen));
        assert_eq!(check(&".a".repeat(2 * EXPRESSION_DEPTH_MAX + 1)), Err(ExpressionError::TooDeep));
        assert_eq!(check(&"!".repeat(2 * EXPRESSION_DEPTH_MAX + 1)), Err(ExpressionError::TooDeep));
    }

    #[test]
    fn random_text_neither_panics_nor_uses_up_the_stack() {
        const PIECES: [&str; 24] = [
            "(", ")", "[", "]", "{", "}", "?", ":", "!", "-", "+", "||", "&&", ".a", "data", "1", "'", "\"", "\\", ",",
            "'''", "r'", "==", "//",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let sources = (0..400).map(|_| {
            let pieces = random.usize(1..250);
            (0..pieces).map(|_| PIECES[random.usize(..PIECES.len())]).collect::<String>()
        });
        on_an_ordinary_stack(sources.collect());
    }
}
