//! Places where a test cuts the worker's thread, as `kill -9` would. In any other build nothing of it is left.

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn here(_place: &'static str) {}

#[cfg(test)]
pub(crate) use armed::{Cuts, follow, here};

#[cfg(test)]
mod armed {
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::sync::{Arc, Mutex};

    /// The places of one engine: how many of them are passed before the cut.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Cuts(Arc<State>);

    #[derive(Debug, Default)]
    struct State {
        /// 0: no cut is armed.
        left: AtomicI64,
        /// Where the last cut was.
        place: Mutex<Option<&'static str>>,
        /// Where the thread stands still for good, the how manieth time that it comes there.
        stands: Mutex<Option<(&'static str, u32)>>,
    }

    impl State {
        fn stands_at(&self, place: &'static str) -> bool {
            match &mut *self.stands.lock().unwrap() {
                Some((stands, nth)) if *stands == place => {
                    *nth = nth.saturating_sub(1);
                    *nth == 0
                }
                _ => false,
            }
        }
    }

    thread_local! {
        static FOLLOWED: RefCell<Option<Cuts>> = const { RefCell::new(None) };
    }

    impl Cuts {
        /// Cuts at the `count`th place from now on.
        pub fn arm(&self, count: i64) {
            *self.0.place.lock().unwrap() = None;
            self.0.left.store(count, Ordering::SeqCst);
        }

        /// Cuts no more. Where it was cut before stays known.
        pub fn disarm(&self) {
            self.0.left.store(0, Ordering::SeqCst);
        }

        /// The thread stands still for good at that place, the `nth` time from now on that it comes there: for a test that ends
        /// the process or its machine then.
        pub fn stand_at(&self, place: &'static str, nth: u32) {
            *self.0.stands.lock().unwrap() = Some((place, nth));
        }

        /// Where it was cut, or stands.
        pub fn place(&self) -> Option<&'static str> {
            *self.0.place.lock().unwrap()
        }
    }

    /// This thread obeys these cuts.
    pub(crate) fn follow(cuts: &Cuts) {
        FOLLOWED.set(Some(cuts.clone()));
    }

    /// Ends the thread if this is the place, without a message: it was asked for.
    pub(crate) fn here(place: &'static str) {
        let cut = FOLLOWED.with_borrow(|cuts| {
            let state = &cuts.as_ref()?.0;
            if state.stands_at(place) {
                *state.place.lock().unwrap() = Some(place);
                loop {
                    std::thread::park();
                }
            }
            let left = state
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    (left > 0).then(|| left - 1)
                });
            (left == Ok(1)).then(|| *state.place.lock().unwrap() = Some(place))
        });
        if cut.is_some() {
            std::panic::resume_unwind(Box::new(place));
        }
    }
}
