//! Tokens to a program: the grammar, and what it refuses.
//!
//! Operators wait on a stack for their right side and are emitted when an operator that binds no tighter follows, so
//! nothing recurses.

use super::lexer::{Keyword, Lexer, Token};
use super::program::{Builder, Op, Place, Program, Relation};
use super::{LENGTH_MAX, NESTING_MAX, SqlError, SqlErrorKind};

/// Bytes of a refused token that an error repeats.
const FOUND_MAX: usize = 32;

/// An operand that is on the stack when the program runs.
#[derive(Clone, Copy, Debug)]
struct Operand {
    kind: Kind,
    /// Where it begins in the source.
    position: usize,
    /// Where its operations begin in the program.
    start: usize,
}

/// What is known of an operand before there is a message; it decides where the operand may stand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Property,
    /// A literal that is a number, and its value.
    Number(Number),
    Text,
    /// `TRUE` or `FALSE`.
    Truth,
    Null,
    /// True, false or unknown when it is evaluated.
    Condition,
    /// Something behind a minus.
    Negated,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Integer(i64),
    Float(f64),
}

impl Number {
    fn is_above(self, other: Self) -> bool {
        match (self, other) {
            (Self::Integer(left), Self::Integer(right)) => left > right,
            (Self::Float(left), Self::Float(right)) => left > right,
            (Self::Integer(left), Self::Float(right)) => left as f64 > right,
            (Self::Float(left), Self::Integer(right)) => left > right as f64,
        }
    }
}

/// How tight an operator binds, from the loosest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// Waits for a token of its own.
    Bracket,
    Or,
    And,
    Equality,
    Comparison,
    Prefix,
}

/// An operator that waits for its right side.
#[derive(Clone, Copy, Debug)]
enum Pending {
    Parenthesis,
    /// What is AND, or else OR, and the jump over its right side.
    Join {
        all: bool,
        left: Operand,
        jump: usize,
    },
    Equal {
        not: bool,
        left: Operand,
    },
    Compare {
        relation: Relation,
        left: Operand,
        unknown: usize,
    },
    /// BETWEEN before its lower limit.
    Low {
        not: bool,
        value: Operand,
        unknown: usize,
    },
    /// BETWEEN before its upper limit.
    High {
        not: bool,
        value: Operand,
        low: Operand,
        unknown: usize,
        settled: usize,
    },
    Minus {
        position: usize,
    },
    Not {
        position: usize,
    },
}

impl Pending {
    fn level(self) -> Level {
        match self {
            Self::Parenthesis | Self::Low { .. } => Level::Bracket,
            Self::Join { all, .. } => Level::join(all),
            Self::Equal { .. } => Level::Equality,
            Self::Compare { .. } | Self::High { .. } => Level::Comparison,
            Self::Minus { .. } | Self::Not { .. } => Level::Prefix,
        }
    }
}

impl Level {
    fn join(all: bool) -> Self {
        if all { Self::And } else { Self::Or }
    }
}

/// What an operator leaves.
enum Step {
    /// It wants an operand on its right.
    Wants,
    /// It was applied, and another one may follow, which binds no tighter than this.
    Done(Operand, Level),
    /// There was none: this is the whole expression.
    End(Operand),
}

/// Compiles an expression.
pub(crate) fn compile(source: &str) -> Result<Program, SqlError> {
    if source.len() > LENGTH_MAX {
        return Err(SqlError { position: LENGTH_MAX, kind: SqlErrorKind::TooLong });
    }
    let mut parser = Parser {
        lexer: Lexer::new(source),
        token: Token::End,
        position: 0,
        pending: Vec::new(),
        program: Builder::default(),
    };
    parser.expression()?;
    Ok(parser.program.finish())
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// What comes next, and where.
    token: Token<'a>,
    position: usize,
    pending: Vec<Pending>,
    program: Builder<'a>,
}

impl<'a> Parser<'a> {
    /// A whole expression. What follows it is left alone.
    fn expression(&mut self) -> Result<(), SqlError> {
        self.advance()?;
        loop {
            let (mut operand, mut tightest) = (self.operand()?, Level::Comparison);
            loop {
                match self.operator(operand, tightest)? {
                    Step::Wants => break,
                    Step::Done(result, level) => (operand, tightest) = (result, level),
                    Step::End(whole) => return self.condition(whole),
                }
            }
        }
    }

    /// Goes on to the next token.
    fn advance(&mut self) -> Result<(), SqlError> {
        let next = self.lexer.next();
        (self.position, self.token) = next.map_err(|(position, kind)| SqlError { position, kind })?;
        Ok(())
    }

    /// Goes on if the next token is this one.
    fn takes(&mut self, wanted: Token<'_>) -> Result<bool, SqlError> {
        let found = self.token == wanted;
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn takes_keyword(&mut self, wanted: Keyword) -> Result<bool, SqlError> {
        self.takes(Token::Keyword(wanted))
    }

    fn expect(&mut self, wanted: Token<'_>, name: &'static str) -> Result<(), SqlError> {
        if self.takes(wanted)? { Ok(()) } else { self.unexpected(name) }
    }

    fn unexpected<T>(&self, expected: &'static str) -> Result<T, SqlError> {
        let rest = self.lexer.source_from(self.position);
        let found = match self.token {
            Token::End => "the end".to_owned(),
            _ => format!("{:?}", &rest[..rest.floor_char_boundary(FOUND_MAX)]),
        };
        Err(self.error(SqlErrorKind::Unexpected { expected, found }))
    }

    /// An error about the next token.
    fn error(&self, kind: SqlErrorKind) -> SqlError {
        SqlError { position: self.position, kind }
    }

    fn emit(&mut self, op: Op) -> Result<usize, SqlError> {
        self.program.push(op).map_err(|kind| self.error(kind))
    }

    /// Makes the operand on top of the stack a condition.
    fn condition(&mut self, operand: Operand) -> Result<(), SqlError> {
        match operand.kind {
            Kind::Property => self.emit(Op::Condition).map(drop),
            Kind::Condition | Kind::Truth | Kind::Null => Ok(()),
            Kind::Number(_) | Kind::Text | Kind::Negated => Err(operand.error(SqlErrorKind::NotBoolean)),
        }
    }

    /// Leaves an operator waiting for its right side.
    fn wait(&mut self, pending: Pending) -> Result<(), SqlError> {
        if self.pending.len() == NESTING_MAX {
            return Err(self.error(SqlErrorKind::TooDeep));
        }
        self.pending.push(pending);
        Ok(())
    }

    fn wants(&mut self, pending: Pending) -> Result<Step, SqlError> {
        self.wait(pending).map(|()| Step::Wants)
    }

    /// Reads prefixes and parentheses up to a property or a literal.
    fn operand(&mut self) -> Result<Operand, SqlError> {
        loop {
            let position = self.position;
            match self.token {
                Token::Symbol("+") => {}
                Token::Symbol("-") => self.wait(Pending::Minus { position })?,
                Token::Keyword(Keyword::Not) => self.wait(Pending::Not { position })?,
                Token::Symbol("(") => self.wait(Pending::Parenthesis)?,
                _ => return self.primary(),
            }
            self.advance()?;
        }
    }

    /// Reads an operator behind an operand; it binds no tighter than `tightest`.
    fn operator(&mut self, operand: Operand, tightest: Level) -> Result<Step, SqlError> {
        let operand = self.settle(Level::Comparison, operand)?;
        if let Some(Pending::Low { not, value, unknown }) = self.pending.last().copied() {
            self.pending.pop();
            return self.upper_limit(not, value, operand, unknown);
        }
        if tightest >= Level::Comparison
            && let Some(step) = self.comparison(operand)?
        {
            return Ok(step);
        }
        match self.token {
            Token::Keyword(Keyword::Is) => self.is_null(operand),
            Token::Symbol("=") => self.equality(operand, false),
            Token::Symbol("<>") => self.equality(operand, true),
            Token::Keyword(Keyword::And) => self.join(operand, true),
            Token::Keyword(Keyword::Or) => self.join(operand, false),
            _ => self.close(operand),
        }
    }

    fn comparison(&mut self, operand: Operand) -> Result<Option<Step>, SqlError> {
        if let Some(relation) = relation(self.token) {
            return self.relation(operand, relation).map(Some);
        }
        let not = self.takes_keyword(Keyword::Not)?;
        let step = match self.token {
            Token::Keyword(Keyword::Between) => self.between(operand, not)?,
            Token::Keyword(Keyword::In) => self.list(operand, not)?,
            Token::Keyword(Keyword::Contains) => self.find(operand, Place::Anywhere, not)?,
            Token::Keyword(Keyword::StartsWith) => self.find(operand, Place::Start, not)?,
            Token::Keyword(Keyword::EndsWith) => self.find(operand, Place::End, not)?,
            _ if not => return self.unexpected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH"),
            _ => return Ok(None),
        };
        Ok(Some(step))
    }

    /// Emits the waiting operators that bind as tight as `level`, or tighter, with `right` on their right side.
    fn settle(&mut self, level: Level, right: Operand) -> Result<Operand, SqlError> {
        let mut right = right;
        while let Some(pending) = self.pending.pop_if(|pending| pending.level() >= level) {
            right = self.emit_pending(pending, right)?;
        }
        Ok(right)
    }

    fn emit_pending(&mut self, pending: Pending, right: Operand) -> Result<Operand, SqlError> {
        let kind = Kind::Condition;
        Ok(match pending {
            Pending::Minus { position } => {
                self.emit(Op::Negate)?;
                Operand { kind: Kind::Negated, position, ..right }
            }
            Pending::Not { position } => {
                self.condition(right)?;
                self.emit(Op::Not)?;
                Operand { kind, position, ..right }
            }
            Pending::Compare { relation, left, unknown } => {
                ordered(right)?;
                self.emit(Op::Compare(relation))?;
                self.program.land(unknown);
                Operand { kind, ..left }
            }
            Pending::High { not, value, low, unknown, settled } => {
                limits(low, right, not)?;
                self.emit(Op::High { not })?;
                self.program.land(unknown);
                self.program.land(settled);
                Operand { kind, ..value }
            }
            Pending::Equal { not, left } => {
                comparable(left, right)?;
                self.emit(Op::Equal)?;
                self.negate_if(not)?;
                Operand { kind, ..left }
            }
            Pending::Join { all, left, jump } => {
                self.condition(right)?;
                self.emit(if all { Op::And } else { Op::Or })?;
                self.program.land(jump);
                Operand { kind, ..left }
            }
            // They wait for tokens and are not settled.
            Pending::Parenthesis | Pending::Low { .. } => right,
        })
    }

    /// The end of what is in parentheses, or of everything.
    fn close(&mut self, operand: Operand) -> Result<Step, SqlError> {
        let operand = self.settle(Level::Or, operand)?;
        if self.pending.is_empty() {
            return Ok(Step::End(operand));
        }
        self.expect(Token::Symbol(")"), ")")?;
        self.pending.pop();
        Ok(Step::Done(operand, Level::Comparison))
    }

    /// AND if `all`, else OR. A left side that decides makes the program jump over the right one.
    fn join(&mut self, left: Operand, all: bool) -> Result<Step, SqlError> {
        let left = self.settle(Level::join(all), left)?;
        self.advance()?;
        self.condition(left)?;
        let jump = self.emit(Op::JumpIf(!all, 0))?;
        self.wants(Pending::Join { all, left, jump })
    }

    fn equality(&mut self, left: Operand, not: bool) -> Result<Step, SqlError> {
        let left = self.settle(Level::Equality, left)?;
        self.advance()?;
        self.wants(Pending::Equal { not, left })
    }

    fn is_null(&mut self, operand: Operand) -> Result<Step, SqlError> {
        let operand = self.settle(Level::Equality, operand)?;
        self.advance()?;
        let not = self.takes_keyword(Keyword::Not)?;
        self.expect(Token::Keyword(Keyword::Null), "NULL or NOT NULL")?;
        self.emit(Op::IsNull)?;
        self.negate_if(not)?;
        Ok(Step::Done(Operand { kind: Kind::Condition, ..operand }, Level::Equality))
    }

    fn negate_if(&mut self, not: bool) -> Result<(), SqlError> {
        if not { self.emit(Op::Not).map(drop) } else { Ok(()) }
    }

    fn relation(&mut self, left: Operand, relation: Relation) -> Result<Step, SqlError> {
        self.advance()?;
        ordered(left)?;
        let unknown = self.emit(Op::JumpIfNull(0))?;
        self.wants(Pending::Compare { relation, left, unknown })
    }

    /// `value >= low AND value <= high`, or `value < low OR value > high`, with the value evaluated once.
    fn between(&mut self, value: Operand, not: bool) -> Result<Step, SqlError> {
        self.advance()?;
        ordered(value)?;
        let unknown = self.emit(Op::JumpIfNull(0))?;
        self.wants(Pending::Low { not, value, unknown })
    }

    fn upper_limit(
        &mut self,
        not: bool,
        value: Operand,
        low: Operand,
        unknown: usize,
    ) -> Result<Step, SqlError> {
        ordered(low)?;
        let settled = self.emit(Op::Low { not, end: 0 })?;
        self.expect(Token::Keyword(Keyword::And), "AND")?;
        self.wants(Pending::High { not, value, low, unknown, settled })
    }

    fn list(&mut self, value: Operand, not: bool) -> Result<Step, SqlError> {
        if value.kind != Kind::Property {
            return Err(value.error(SqlErrorKind::InWithoutProperty));
        }
        self.advance()?;
        self.expect(Token::Symbol("("), "a list in parentheses")?;
        let mut texts = vec![self.text()?];
        while self.takes(Token::Symbol(","))? {
            texts.push(self.text()?);
        }
        self.expect(Token::Symbol(")"), "a comma or )")?;
        texts.sort_unstable();
        self.emit(Op::In { texts: texts.into(), not })?;
        Ok(Step::Done(Operand { kind: Kind::Condition, ..value }, Level::Comparison))
    }

    /// With an empty text it is false, whatever the value: the value is not even evaluated.
    fn find(&mut self, value: Operand, place: Place, not: bool) -> Result<Step, SqlError> {
        self.advance()?;
        let text = self.text()?;
        if text.is_empty() {
            self.program.take_back(value.start);
            self.emit(Op::Boolean(false))?;
        } else {
            self.emit(Op::Find { text, place, not })?;
        }
        Ok(Step::Done(Operand { kind: Kind::Condition, ..value }, Level::Comparison))
    }

    /// A text in quotes.
    fn text(&mut self) -> Result<Box<str>, SqlError> {
        let Token::Text(quoted) = self.token else { return self.unexpected("a text in quotes") };
        self.advance()?;
        Ok(quoted.replace("''", "'").into())
    }

    /// A property or a literal.
    fn primary(&mut self) -> Result<Operand, SqlError> {
        let position = self.position;
        let (op, kind) = match self.token {
            Token::Name(name) => {
                let number = self.program.property(name).map_err(|kind| self.error(kind))?;
                (Op::Property(number), Kind::Property)
            }
            Token::Text(quoted) => (Op::Text(quoted.replace("''", "'").into()), Kind::Text),
            Token::Integer(digits) => integer(digits).ok_or(self.error(SqlErrorKind::NumberOutOfRange))?,
            Token::Float(number) => float(number).ok_or(self.error(SqlErrorKind::NumberOutOfRange))?,
            Token::Keyword(Keyword::True) => (Op::Boolean(true), Kind::Truth),
            Token::Keyword(Keyword::False) => (Op::Boolean(false), Kind::Truth),
            Token::Keyword(Keyword::Null) => (Op::Null, Kind::Null),
            _ => return self.unexpected("an operand"),
        };
        let start = self.emit(op)?;
        self.advance()?;
        Ok(Operand { kind, position, start })
    }
}

impl Operand {
    fn error(self, kind: SqlErrorKind) -> SqlError {
        SqlError { position: self.position, kind }
    }
}

/// Refuses what is never equal.
fn comparable(left: Operand, right: Operand) -> Result<(), SqlError> {
    for operand in [left, right] {
        if operand.kind == Kind::Null {
            return Err(operand.error(SqlErrorKind::ComparedWithNull));
        }
    }
    if left.kind == Kind::Truth && matches!(right.kind, Kind::Number(_) | Kind::Text) {
        return Err(right.error(SqlErrorKind::BooleanWithOther));
    }
    Ok(())
}

/// Refuses what has no size.
fn ordered(operand: Operand) -> Result<(), SqlError> {
    match operand.kind {
        Kind::Property | Kind::Number(_) | Kind::Negated => Ok(()),
        Kind::Text | Kind::Truth | Kind::Null | Kind::Condition => {
            Err(operand.error(SqlErrorKind::NotOrdered))
        }
    }
}

/// Refuses limits without size, and a range that nothing is in.
fn limits(low: Operand, high: Operand, not: bool) -> Result<(), SqlError> {
    ordered(high)?;
    match (low.kind, high.kind) {
        (Kind::Number(lower), Kind::Number(upper)) if !not && lower.is_above(upper) => {
            Err(low.error(SqlErrorKind::EmptyRange))
        }
        _ => Ok(()),
    }
}

fn relation(token: Token<'_>) -> Option<Relation> {
    match token {
        Token::Symbol(">") => Some(Relation::Greater),
        Token::Symbol(">=") => Some(Relation::GreaterOrEqual),
        Token::Symbol("<") => Some(Relation::Less),
        Token::Symbol("<=") => Some(Relation::LessOrEqual),
        _ => None,
    }
}

/// 32 bits wide if that suffices: a property is then read as such a number.
fn integer(digits: &str) -> Option<(Op, Kind)> {
    let value: i64 = digits.parse().ok()?;
    let op = i32::try_from(value).map_or(Op::Long(value), Op::Int);
    Some((op, Kind::Number(Number::Integer(value))))
}

/// Finite and not zero: what is below the smallest double is refused, and Java counts 0.0 as that.
fn float(number: &str) -> Option<(Op, Kind)> {
    let value: f64 = number.parse().ok()?;
    (value != 0.0 && value.is_finite()).then_some((Op::Double(value), Kind::Number(Number::Float(value))))
}
