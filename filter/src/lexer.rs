//! Characters to tokens: at each place the longest one that fits.

use super::SqlErrorKind;

/// A piece of an expression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    Keyword(Keyword),
    /// The name of a property.
    Name(&'a str),
    /// What is between the quotes, with quotes inside still doubled.
    Text(&'a str),
    /// Digits, without the `L` that may follow them.
    Integer(&'a str),
    Float(&'a str),
    Symbol(&'static str),
    End,
}

macro_rules! keywords {
    ($($name:ident $text:literal)*) => {
        /// Words that cannot be names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Keyword { $($name),* }

        impl Keyword {
            const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$name)),*];
        }
    };
}

keywords! {
    Not "NOT" And "AND" Or "OR" Between "BETWEEN" In "IN" True "TRUE" False "FALSE" Null "NULL" Is "IS"
    Contains "CONTAINS" StartsWith "STARTSWITH" EndsWith "ENDSWITH"
}

/// Longer symbols before their beginnings.
const SYMBOLS: [&str; 11] = ["<>", "<=", ">=", "<", ">", "=", "(", ")", ",", "+", "-"];

/// Reads tokens one after the other.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    source: &'a str,
    at: usize,
    /// The last line break: `--` begins a comment only if one follows.
    last_line_break: Option<usize>,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(source: &'a str) -> Self {
        Self { source, at: 0, last_line_break: source.rfind(['\n', '\r']) }
    }

    /// The next token and the byte that it begins at.
    pub(crate) fn next(&mut self) -> Result<(usize, Token<'a>), (usize, SqlErrorKind)> {
        self.skip_blanks().map_err(|kind| (self.at, kind))?;
        let start = self.at;
        let token = self.token().map_err(|kind| (start, kind))?;
        Ok((start, token))
    }

    /// What stands from a byte on where a token begins.
    pub(crate) fn source_from(&self, at: usize) -> &'a str {
        &self.source[at..]
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn skip_blanks(&mut self) -> Result<(), SqlErrorKind> {
        loop {
            let rest = self.rest();
            if rest.starts_with([' ', '\t', '\n', '\r', '\u{c}']) {
                self.at += 1;
            } else if rest.starts_with("--") && self.last_line_break.is_some_and(|at| at > self.at) {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let end = comment.find("*/").ok_or(SqlErrorKind::OpenComment)?;
                self.at += 2 + end + 2;
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token<'a>, SqlErrorKind> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if first == '\'' {
            return self.text();
        }
        if first.is_ascii_alphabetic() || matches!(first, '_' | '$') {
            return Ok(self.word());
        }
        if let Some(number) = self.number() {
            return Ok(number);
        }
        let symbol = SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol));
        let symbol = symbol.ok_or(SqlErrorKind::UnexpectedCharacter(first))?;
        self.at += symbol.len();
        Ok(Token::Symbol(symbol))
    }

    /// Takes `len` bytes.
    fn take(&mut self, len: usize) -> &'a str {
        let taken = &self.rest()[..len];
        self.at += len;
        taken
    }

    /// Ends at a quote that stands alone, or at the last one if there is none.
    fn text(&mut self) -> Result<Token<'a>, SqlErrorKind> {
        let bytes = self.rest().as_bytes();
        let mut end = None;
        let mut at = 1;
        while let Some(quote) = bytes[at..].iter().position(|byte| *byte == b'\'') {
            at += quote + 1;
            end = Some(at);
            if bytes.get(at) != Some(&b'\'') {
                break;
            }
            at += 1;
        }
        let end = end.ok_or(SqlErrorKind::OpenText)?;
        Ok(Token::Text(&self.take(end)[1..end - 1]))
    }

    fn word(&mut self) -> Token<'a> {
        let rest = self.rest();
        let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$');
        let word = self.take(rest.bytes().take_while(goes_on).count());
        let keyword = Keyword::ALL.iter().find(|(text, _)| word.eq_ignore_ascii_case(text));
        keyword.map_or(Token::Name(word), |(_, keyword)| Token::Keyword(*keyword))
    }

    /// `12`, `12L`, `1.`, `1.5`, `.5`, `1E5`, `1.5e-5`. A zero before other digits is an integer of its own.
    fn number(&mut self) -> Option<Token<'a>> {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let whole = digits(0);
        let mut end = whole;
        if bytes.get(end) == Some(&b'.') {
            end += 1 + digits(end + 1);
        }
        if end == 0 || (whole == 0 && end == 1) {
            return None;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits((end + 1 + sign).min(bytes.len()));
            end += if exponent > 0 { 1 + sign + exponent } else { 0 };
        }
        if end > whole {
            return Some(Token::Float(self.take(end)));
        }
        if bytes[0] == b'0' {
            return Some(Token::Integer(self.take(1)));
        }
        let integer = Token::Integer(self.take(whole));
        self.at += usize::from(matches!(bytes.get(whole), Some(b'l' | b'L')));
        Some(integer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(source);
        let next = || match lexer.next().unwrap().1 {
            Token::End => None,
            token => Some(token),
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn the_longest_token_is_taken() {
        use Token::{Float, Integer, Keyword as Word, Name, Symbol, Text};
        assert_eq!(tokens("a<=b<>c"), [Name("a"), Symbol("<="), Name("b"), Symbol("<>"), Name("c")]);
        assert_eq!(tokens("12L 12lx 0L 007"), {
            let zero = Integer("0");
            [Integer("12"), Integer("12"), Name("x"), zero, Name("L"), zero, zero, Integer("7")]
        });
        assert_eq!(tokens("1. .5 1.5e-3 00.5 1e5"), ["1.", ".5", "1.5e-3", "00.5", "1e5"].map(Float));
        assert_eq!(tokens("1e 1e+ 1.e"), {
            [Integer("1"), Name("e"), Integer("1"), Name("e"), Symbol("+"), Float("1."), Name("e")]
        });
        assert_eq!(tokens("'it''s' ''''''''"), [Text("it''s"), Text("''''''")]);
        assert_eq!(tokens("iN inn $in"), [Word(Keyword::In), Name("inn"), Name("$in")]);
    }

    #[test]
    fn comments_end() {
        assert_eq!(tokens("a -- '\r\n/* ' **/ b /**/"), [Token::Name("a"), Token::Name("b")]);
        assert_eq!(
            tokens("a --b"),
            [Token::Name("a"), Token::Symbol("-"), Token::Symbol("-"), Token::Name("b")]
        );
        assert_eq!(Lexer::new("  /* *").next(), Err((2, SqlErrorKind::OpenComment)));
    }

    #[test]
    fn what_is_no_token_is_named_with_its_place() {
        assert_eq!(Lexer::new(" ;").next(), Err((1, SqlErrorKind::UnexpectedCharacter(';'))));
        assert_eq!(Lexer::new("é").next(), Err((0, SqlErrorKind::UnexpectedCharacter('é'))));
        assert_eq!(Lexer::new(" 'x").next(), Err((1, SqlErrorKind::OpenText)));
        let mut lexer = Lexer::new("'x''y");
        assert_eq!(lexer.next(), Ok((0, Token::Text("x"))));
        assert_eq!(lexer.next(), Err((3, SqlErrorKind::OpenText)));
        assert_eq!(Lexer::new(".").next(), Err((0, SqlErrorKind::UnexpectedCharacter('.'))));
    }
}
