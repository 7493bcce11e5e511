//! Threads that wait for the next loop awake.
//!
//! A decoding step is a hundred short loops one after the other. The general pool puts an idle thread to sleep after some
//! microseconds and needs tens of them to wake it, which is as long as such a loop takes; here helpers look for the next
//! loop for [`AWAKE`] before they sleep. Work is dealt out item by item, so what an item computes never depends on the
//! number of threads. Training uses the pool: its loops are long.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a helper looks for a loop before it sleeps: somewhat longer than what lies between two steps.
const AWAKE: Duration = Duration::from_micros(300);
/// Looks between two looks at the clock.
const LOOKS: usize = 64;

/// A loop: what to do with item i, for i below `count`.
#[derive(Clone, Copy)]
struct Loop {
    item: *const (dyn Fn(usize) + Sync),
    count: usize,
}

/// One loop at a time, its caller and the helpers.
struct Team {
    helpers: usize,
    /// Held by the caller whose loop it is.
    caller: Mutex<()>,
    /// Read by helpers that joined while `is_open`, and written while it is not and none is in.
    current: UnsafeCell<Option<Loop>>,
    /// Changes with every loop.
    number: AtomicUsize,
    is_open: AtomicBool,
    /// The next item that nobody has taken.
    next: AtomicUsize,
    /// Helpers at work.
    joined: AtomicUsize,
    has_panicked: AtomicBool,
    sleeping: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

// SAFETY: `current` is the only part that is not Sync by itself; see its comment for who touches it when.
unsafe impl Sync for Team {}
// SAFETY: the pointer in it is used only while the caller that it came from waits.
unsafe impl Send for Team {}

/// Calls `work` once with every item, on this thread and the helpers.
///
/// The order is arbitrary. A caller that finds the team at another's loop uses the pool. A panic of any item is this
/// call's panic, once no thread is at work any more.
pub(crate) fn for_each<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();
    let threads = rayon::current_num_threads();
    if items.len() < 2 || threads == 1 {
        return items.iter_mut().for_each(work);
    }
    let team = TEAM.get_or_init(|| Team::start(threads - 1));
    let _caller = match team.caller.try_lock() {
        Ok(caller) => caller,
        Err(TryLockError::Poisoned(error)) => error.into_inner(),
        Err(TryLockError::WouldBlock) => {
            use rayon::prelude::*;
            return items.par_iter_mut().with_max_len(1).for_each(&work);
        }
    };
    let first = Items(items.as_mut_ptr());
    // SAFETY: each i below the length is handed out once, so no two borrows of an item exist.
    team.all(items.len(), &|i| work(unsafe { &mut *first.at(i) }));
}

/// The first of the items.
struct Items<T>(*mut T);

// SAFETY: threads are given different items, and T may move between threads.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    fn at(&self, i: usize) -> *mut T {
        // SAFETY: i lies below the length of the slice that the pointer came from.
        unsafe { self.0.add(i) }
    }
}

impl Team {
    fn start(helpers: usize) -> &'static Self {
        let team: &'static Self = Box::leak(Box::new(Self {
            helpers,
            caller: Mutex::new(()),
            current: UnsafeCell::new(None),
            number: AtomicUsize::new(0),
            is_open: AtomicBool::new(false),
            next: AtomicUsize::new(0),
            joined: AtomicUsize::new(0),
            has_panicked: AtomicBool::new(false),
            sleeping: AtomicUsize::new(0),
            bed: Mutex::new(()),
            alarm: Condvar::new(),
        }));
        for i in 0..team.helpers {
            let name = format!("decode-{i}");
            // Without its helpers the caller does everything itself.
            let _ = std::thread::Builder::new().name(name).spawn(move || team.help());
        }
        team
    }

    /// Opens a loop, takes part in it, and returns when nobody is in it any more.
    fn all(&self, count: usize, item: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime is given up; no helper uses the pointer after the wait below.
        let item = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(item) };
        let current = Loop { item, count };
        // SAFETY: no loop is open and nobody is in one: the last caller waited for that.
        unsafe { *self.current.get() = Some(current) };
        self.next.store(0, SeqCst);
        self.is_open.store(true, SeqCst);
        self.number.fetch_add(1, SeqCst);
        if self.sleeping.load(SeqCst) > 0 {
            let _bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
            self.alarm.notify_all();
        }
        let done = catch_unwind(AssertUnwindSafe(|| self.work(current)));
        self.is_open.store(false, SeqCst);
        while self.joined.load(SeqCst) > 0 {
            std::hint::spin_loop();
        }
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
        assert!(!self.has_panicked.swap(false, SeqCst), "a thread that helped to decode has panicked");
    }

    /// Takes items until none is left.
    fn work(&self, current: Loop) {
        loop {
            let i = self.next.fetch_add(1, SeqCst);
            if i >= current.count {
                return;
            }
            // SAFETY: the caller waits until everyone who took an item has left.
            unsafe { (*current.item)(i) };
        }
    }

    fn help(&self) {
        let mut seen = 0;
        loop {
            seen = self.wait(seen);
            // Either the caller sees that somebody is in, or this thread sees that the loop is closed.
            self.joined.fetch_add(1, SeqCst);
            if self.is_open.load(SeqCst) {
                // SAFETY: the loop stays as it is while somebody is in.
                let current = unsafe { *self.current.get() };
                let done = current.map(|current| catch_unwind(AssertUnwindSafe(|| self.work(current))));
                if matches!(done, Some(Err(_))) {
                    self.has_panicked.store(true, SeqCst);
                }
            }
            self.joined.fetch_sub(1, SeqCst);
        }
    }

    /// The number of the next loop: looks out for it, then sleeps until it comes.
    fn wait(&self, seen: usize) -> usize {
        let began = Instant::now();
        while began.elapsed() < AWAKE {
            for _ in 0..LOOKS {
                let number = self.number.load(SeqCst);
                if number != seen {
                    return number;
                }
                std::hint::spin_loop();
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, SeqCst);
        let mut number = self.number.load(SeqCst);
        while number == seen {
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
            number = self.number.load(SeqCst);
        }
        self.sleeping.fetch_sub(1, SeqCst);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_visited_once_whoever_calls() {
        let visit = |seed: usize| {
            for n in [0, 1, 2, 3, 17, 400] {
                let mut items: Vec<usize> = (0..n).map(|i| i + seed).collect();
                for _ in 0..50 {
                    for_each(&mut items, |item| *item += 1);
                }
                assert!(items.iter().enumerate().all(|(i, item)| *item == i + seed + 50));
            }
        };
        std::thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || visit(seed));
            }
        });
        // The helpers are asleep by now.
        std::thread::sleep(Duration::from_millis(5));
        visit(9);
    }

    #[test]
    fn a_panic_is_the_callers_and_the_team_goes_on() {
        let mut items = [0; 64];
        let result = catch_unwind(AssertUnwindSafe(|| for_each(&mut items, |_| panic!("no"))));
        assert!(result.is_err());
        for_each(&mut items, |item| *item = 1);
        assert_eq!(items, [1; 64]);
    }
}
