//! When it pays for the serving thread to stay with who asks: arithmetic only.

use std::time::{Duration, Instant};

/// So many requests are looked at together.
const WINDOW: u32 = 16;
/// Longer than this for a window, and nobody waits for the next answer.
const OFTEN: Duration = Duration::from_millis(16);
/// So many requests of one asker in a row pay for a move.
const ROW: u32 = 3;
/// Who waited this long for a thread that had yielded would better have been
/// served from elsewhere.
const HARM: Duration = Duration::from_micros(100);
/// What was taken from the queue this soon had been waiting there.
const AT_ONCE: Duration = Duration::from_micros(50);
/// How long the thread is then like any other: at first, and at most.
const BARRED: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

/// What to do about the asker of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Advice {
    /// Nothing new.
    Stay,
    /// Another one asks: be where that is, if with one already.
    Move,
    /// Requests come often: be where they come from.
    Follow,
    /// They do not, or others suffered.
    Leave,
}

/// Who asked lately, and who had to wait.
#[derive(Debug)]
pub(super) struct Askers {
    began: Instant,
    asked: u32,
    last: u32,
    /// Requests in a row of the last asker.
    row: u32,
    /// When the thread had its turn back after an answer, and how late.
    back: Option<(Instant, Duration)>,
    barred: Option<Instant>,
    bar: Duration,
}

impl Askers {
    pub fn new(now: Instant) -> Askers {
        Askers {
            began: now,
            asked: 0,
            last: 0,
            row: 0,
            back: None,
            barred: None,
            bar: BARRED.0,
        }
    }

    /// A request has come from a thread; 0 is the kernel, for whom nobody waits.
    pub fn asked(&mut self, asker: u32, now: Instant) -> Advice {
        if asker == 0 {
            return Advice::Stay;
        }
        if asker == self.last {
            self.row += 1;
        } else {
            self.last = asker;
            self.row = 1;
            if self.has_waited(now) {
                self.bar(now);
                return Advice::Leave;
            }
        }
        self.asked += 1;
        if self.asked < WINDOW {
            return match self.row {
                ROW => Advice::Move,
                _ => Advice::Stay,
            };
        }
        let often = now.duration_since(self.began) <= OFTEN;
        let free = self.barred.is_none_or(|until| now >= until);
        self.restart(now);
        match often && free {
            true => Advice::Follow,
            false => Advice::Leave,
        }
    }

    /// The thread has its turn back, so long after it yielded.
    pub fn back(&mut self, now: Instant, yielded: Duration) {
        self.back = Some((now, yielded));
    }

    /// What was counted before says nothing of what comes.
    pub fn restart(&mut self, now: Instant) {
        self.began = now;
        self.asked = 0;
    }

    /// True if the request was in the queue while the thread had yielded.
    fn has_waited(&mut self, now: Instant) -> bool {
        let back = self.back.take();
        back.is_some_and(|(at, yielded)| yielded >= HARM && now.duration_since(at) <= AT_ONCE)
    }

    /// Each time for twice as long, unless the last time is long ago.
    fn bar(&mut self, now: Instant) {
        let long_ago = self
            .barred
            .is_none_or(|until| now.saturating_duration_since(until) >= 8 * self.bar);
        self.bar = match long_ago {
            true => BARRED.0,
            false => (2 * self.bar).min(BARRED.1),
        };
        self.barred = Some(now + self.bar);
        self.restart(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    struct Run {
        askers: Askers,
        now: Instant,
    }

    impl Run {
        fn new() -> Run {
            let now = Instant::now();
            let askers = Askers::new(now);
            Run { askers, now }
        }

        /// A request `after` the last one, from `asker`.
        fn ask(&mut self, asker: u32, after: Duration) -> Advice {
            self.now += after;
            self.askers.asked(asker, self.now)
        }

        fn answer(&mut self, yielded: Duration) {
            self.now += yielded;
            self.askers.back(self.now, yielded);
        }

        /// The advice of one window of requests of one asker.
        fn window(&mut self, asker: u32, after: Duration) -> Advice {
            (1..WINDOW).for_each(|_| {
                self.ask(asker, after);
            });
            self.ask(asker, after)
        }
    }

    #[test]
    fn one_that_asks_often_is_followed() {
        let mut run = Run::new();
        assert_eq!(run.window(7, 30 * MICRO), Advice::Follow);
        assert_eq!(run.window(7, 30 * MICRO), Advice::Follow);
        assert_eq!(run.window(7, 5000 * MICRO), Advice::Leave);
    }

    #[test]
    fn the_next_process_is_moved_to_but_not_many_in_turn() {
        let mut run = Run::new();
        run.window(7, 30 * MICRO);
        let advice: Vec<_> = (0..4).map(|_| run.ask(8, 30 * MICRO)).collect();
        assert_eq!(
            advice,
            [Advice::Stay, Advice::Stay, Advice::Move, Advice::Stay]
        );
        let mut moves = (0..10).filter(|turn| run.ask(7 + turn % 2, 30 * MICRO) == Advice::Move);
        assert_eq!(moves.next(), None);
    }

    #[test]
    fn the_kernel_is_nobody_to_follow() {
        let mut run = Run::new();
        assert_eq!(run.window(0, MICRO), Advice::Stay);
    }

    #[test]
    fn one_that_waited_for_another_bars_for_longer_and_longer() {
        let mut run = Run::new();
        let mut bars = Vec::new();
        for _ in 0..10 {
            while run.window(7, 30 * MICRO) != Advice::Follow {}
            run.answer(300 * MICRO);
            let barred = run.now;
            assert_eq!(run.ask(8, 5 * MICRO), Advice::Leave);
            while run.window(8, 30 * MICRO) != Advice::Follow {}
            bars.push(run.now - barred);
        }
        assert!(bars[0] >= BARRED.0 && bars[0] < 2 * BARRED.0, "{bars:?}");
        assert!(bars[1] >= 2 * BARRED.0, "{bars:?}");
        assert!(bars[9] >= BARRED.1 && bars[9] < 2 * BARRED.1, "{bars:?}");
        run.now += Duration::from_secs(60);
        run.window(7, 30 * MICRO);
        run.answer(300 * MICRO);
        run.ask(8, 5 * MICRO);
        let barred = run.now;
        while run.window(8, 30 * MICRO) != Advice::Follow {}
        assert!(run.now - barred < 2 * BARRED.0);
    }

    #[test]
    fn what_came_later_or_from_the_same_one_has_not_waited() {
        let mut run = Run::new();
        run.window(7, 30 * MICRO);
        run.answer(300 * MICRO);
        assert_eq!(run.ask(7, 5 * MICRO), Advice::Stay);
        run.answer(300 * MICRO);
        assert_eq!(run.ask(8, 80 * MICRO), Advice::Stay);
        run.answer(90 * MICRO);
        assert_eq!(run.ask(7, 5 * MICRO), Advice::Stay);
    }
}
