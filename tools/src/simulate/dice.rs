//! The only randomness of the simulation.

/// xorshift64*: enough to vary schedules, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Self((seed.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Neighbouring seeds begin alike; a few throws part them.
        (0..4).for_each(|_| {
            dice.next();
        });
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number from 0 to `below` - 1; 0 if `below` is 0.
    pub fn roll(&mut self, below: u64) -> u64 {
        (self.next() >> 33).checked_rem(below).unwrap_or(0)
    }

    /// True in `percent` of the throws.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    /// One of the two nodes.
    pub fn node(&mut self) -> usize {
        usize::from(self.chance(50))
    }

    /// 128 bits, for the name of an epoch or a nonce.
    pub fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}
