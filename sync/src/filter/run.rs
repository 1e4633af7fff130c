//! Matching: all alternatives at once, one bit per token.

use super::MAX_PATTERN;
use super::compile::Token;

/// Words of the set of alternatives: one bit per token and one for the end. A pattern has at most as many tokens as bytes.
const WORDS: usize = MAX_PATTERN / 64 + 1;

#[derive(Clone, Copy)]
struct Alternatives([u64; WORDS]);

impl Alternatives {
    const NONE: Self = Alternatives([0; WORDS]);

    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    /// Adds token `at`, and those behind it that can be reached without a byte.
    fn enter(&mut self, tokens: &[Token], mut at: usize) {
        self.insert(at);
        while matches!(tokens.get(at), Some(Token::Star | Token::StarStar)) {
            at += 1;
            self.insert(at);
        }
    }

    fn contains(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// Whether `tokens` match all of `text` with `end` behind it, from its start or, with `any_tail`, from the start of any component.
pub(super) fn matches(tokens: &[Token], text: &[u8], end: &[u8], any_tail: bool) -> bool {
    // The commonest pattern is a plain name: no alternatives needed to refuse it by its first byte.
    if let (Some(Token::Byte(first)), false) = (tokens.first(), any_tail)
        && text.first() != Some(first)
    {
        return false;
    }
    let words = tokens.len() / 64 + 1;
    let mut now = Alternatives::NONE;
    now.enter(tokens, 0);
    for &byte in text.iter().chain(end) {
        let mut next = Alternatives::NONE;
        for (index, word) in now.0[..words].iter().enumerate() {
            let mut left = *word;
            while left != 0 {
                let at = index * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                step(tokens, at, byte, &mut next);
            }
        }
        if any_tail && byte == b'/' {
            next.enter(tokens, 0);
        }
        if !any_tail && next.is_empty() {
            return false;
        }
        now = next;
    }
    now.contains(tokens.len())
}

fn step(tokens: &[Token], at: usize, byte: u8, next: &mut Alternatives) {
    match tokens.get(at) {
        // The end was reached before the text's end.
        None => {}
        Some(Token::StarStar) => next.enter(tokens, at),
        Some(Token::Star) if byte != b'/' => next.enter(tokens, at),
        Some(Token::Byte(b)) if *b == byte => next.enter(tokens, at + 1),
        Some(Token::AnyByte) if byte != b'/' => next.enter(tokens, at + 1),
        Some(Token::Set(bits)) if bits[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0 => {
            next.enter(tokens, at + 1)
        }
        Some(_) => {}
    }
}
