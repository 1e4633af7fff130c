//! Repeatable mutations: the same seed gives the same inputs.

/// Numbers at which decoders break.
const INTERESTING: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 62,
    i64::MAX as u64,
    u64::MAX,
];

/// A source of mutations.
pub struct Mutator(u64);

impl Mutator {
    /// The mutations of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// A number below `end`, 0 if there is none (Marsaglia's xorshift, 2003).
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (end as u64).max(1)).unwrap_or(0)
    }

    /// Changes `input` in one to four places; `other` is another input, of which parts are taken.
    pub fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            self.once(input, other);
        }
    }

    fn once(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len());
        match self.below(8) {
            0 if !input.is_empty() => input[at] ^= 1 << self.below(8),
            1 if !input.is_empty() => input[at] = self.below(256) as u8,
            2 => input.truncate(at),
            3 => {
                let end = at + self.below(input.len() - at.min(input.len()) + 1);
                input.drain(at..end.min(input.len()));
            }
            4 => {
                // A number, as a varint or with a fixed width.
                let number = INTERESTING[self.below(INTERESTING.len())];
                let bytes = match self.below(3) {
                    0 => varint(number),
                    1 => number.to_le_bytes()[..1 << self.below(4)].to_vec(),
                    _ => number.to_be_bytes()[8 - (1 << self.below(4))..].to_vec(),
                };
                let end = (at + bytes.len() * self.below(2)).min(input.len());
                input.splice(at..end, bytes);
            }
            5 => {
                // A part of itself again.
                let part = input[at..(at + self.below(64)).min(input.len())].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, part);
            }
            _ => {
                let from = self.below(other.len());
                let part = &other[from..(from + self.below(256)).min(other.len())];
                let end = (at + self.below(part.len() + 1)).min(input.len());
                input.splice(at..end, part.iter().copied());
            }
        }
    }
}

/// LEB128, as postcard writes numbers.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
