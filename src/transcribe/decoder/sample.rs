//! Chance that repeats itself: the same window at the same temperature is drawn the same text, whatever else is decoded
//! beside it.

/// A stream of random numbers (Steele, Lea and Flood's SplitMix64).
pub(super) struct Chance(u64);

impl Chance {
    /// The stream of the sample `nth` of a window whose contents hash to `seed`.
    pub(super) fn new(seed: u64, nth: usize) -> Self {
        Self(mix(seed ^ mix(nth as u64 + 1)))
    }

    /// From 0 to less than 1, evenly.
    pub(super) fn draw(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 40) as f32 / (1_u32 << 24) as f32
    }
}

/// A number from a window's contents and the temperature.
pub(super) fn seed(features: &[f32], temperature: f32) -> u64 {
    features.iter().fold(u64::from(temperature.to_bits()), |hash, value| {
        (hash.rotate_left(5) ^ u64::from(value.to_bits())).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
