//! Percent-encoding, as in URLs.

/// The bytes that a text stands for. What is no encoded byte stands for itself.
pub fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if bytes[at] == b'%' => {
                decoded.push(byte);
                at += 3;
            }
            _ => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decoded_and_all_else_stays() {
        let cases = [("%2Fa%20b%c3%A9", "/a bé"), ("a+b", "a+b"), ("100%", "100%"), ("%4", "%4"), ("%zz%41", "%zzA")];
        for (text, expected) in cases {
            assert_eq!(percent_decode(text), expected.as_bytes(), "{text}");
        }
    }
}
