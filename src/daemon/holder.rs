//! The stage, lent to whoever carries out a request, and taken back to end it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Lends a value out until it is taken away.
#[derive(Debug)]
pub struct Holder<T> {
    held: Mutex<Held<T>>,
    idle: Condvar,
}

#[derive(Debug)]
struct Held<T> {
    value: Option<Arc<T>>,
    lent: usize,
}

impl<T> Holder<T> {
    /// Holds a value.
    pub fn new(value: T) -> Holder<T> {
        Holder {
            held: Mutex::new(Held {
                value: Some(Arc::new(value)),
                lent: 0,
            }),
            idle: Condvar::new(),
        }
    }

    /// Borrows the value; `None` once it is being taken away.
    pub fn lend(&self) -> Option<Lease<'_, T>> {
        let mut held = self.held.lock();
        let value = Arc::clone(held.value.as_ref()?);
        held.lent += 1;
        Some(Lease {
            holder: self,
            value: Some(value),
        })
    }

    /// Lends the value to nobody any more, waits until all have returned it,
    /// and hands it over. `None` if they take too long (then it is given back
    /// to the lenders), or if it was taken before.
    pub fn take(&self, patience: Duration) -> Option<T> {
        let mut held = self.held.lock();
        let value = held.value.take()?;
        let waited = self
            .idle
            .wait_while_for(&mut held, |held| held.lent > 0, patience);
        if waited.timed_out() && held.lent > 0 {
            held.value = Some(value);
            return None;
        }
        Arc::into_inner(value)
    }

    /// Lends a value out again that was taken.
    pub fn give_back(&self, value: T) {
        self.held.lock().value = Some(Arc::new(value));
    }
}

/// The value, borrowed.
#[derive(Debug)]
pub struct Lease<'a, T> {
    holder: &'a Holder<T>,
    value: Option<Arc<T>>,
}

impl<T> std::ops::Deref for Lease<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // Only `drop` takes it out.
        self.value.as_ref().expect("a lease holds its value")
    }
}

impl<T> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        let mut held = self.holder.held.lock();
        self.value = None;
        held.lent -= 1;
        if held.lent == 0 {
            self.holder.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_handed_over_when_all_have_returned_it() {
        let holder = Arc::new(Holder::new(7));
        let lease = holder.lend().unwrap();
        assert_eq!(*lease, 7);
        assert_eq!(holder.take(Duration::from_millis(1)), None, "still lent");
        let taker = Arc::clone(&holder);
        let taker = std::thread::spawn(move || taker.take(Duration::from_secs(60)));
        drop(lease);
        assert_eq!(taker.join().unwrap(), Some(7));
        assert!(holder.lend().is_none());
        assert_eq!(holder.take(Duration::ZERO), None);
        holder.give_back(7);
        assert_eq!(*holder.lend().unwrap(), 7);
    }
}
