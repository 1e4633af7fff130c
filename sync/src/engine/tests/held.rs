//! A watcher that is slow for as long as a test wants.

use std::sync::{Condvar, Mutex};

/// Its thread waits here with the next event.
#[derive(Debug, Default)]
pub struct Held {
    held: Mutex<bool>,
    released: Condvar,
}

impl Held {
    pub fn hold(&self) {
        *self.held.lock().unwrap() = true;
    }

    pub fn release(&self) {
        *self.held.lock().unwrap() = false;
        self.released.notify_all();
    }

    /// Returns when nothing is held.
    pub fn pass(&self) {
        let held = self.held.lock().unwrap();
        drop(self.released.wait_while(held, |held| *held).unwrap());
    }
}
