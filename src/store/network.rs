//! What all stores behind a network share: the runtime that drives their
//! requests, TLS, and how long they are waited for.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::failure::{Failure, Kind, Result};

/// How patient a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// How often a request is sent again: after 429, 5xx, a broken connection, or silence.
    pub retries: usize,
    /// Until a connection stands.
    pub connect: Duration,
    /// How long a server may say nothing.
    pub idle: Duration,
    /// No request is sent again so long after it was sent first.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            retries: 8,
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            total: Duration::from_secs(120),
        }
    }
}

/// The first pause before a request is sent again; each further one is twice as long.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Counts how often something was tried again, and waits in between.
pub(super) struct Patience {
    limits: Limits,
    begun: Instant,
    tries: usize,
}

impl Patience {
    pub fn new(limits: Limits) -> Patience {
        Patience {
            limits,
            begun: Instant::now(),
            tries: 0,
        }
    }

    /// Waits until it is time to try again, at least for what the server asked for; false when it was enough.
    pub async fn again(&mut self, asked: Option<Duration>) -> bool {
        if self.tries >= self.limits.retries || self.begun.elapsed() > self.limits.total {
            return false;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.tries.min(16));
        self.tries += 1;
        // Those who failed together ought not to come back together.
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.5 + jitter());
        let pause = pause.max(asked.unwrap_or_default().min(self.limits.idle));
        tokio::time::sleep(pause).await;
        true
    }
}

/// From 0 to 0.5.
fn jitter() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    f64::from(now.map_or(0, |now| now.subsec_micros()) % 1000) / 2000.0
}

/// The threads that drive requests; operations wait for them.
pub(super) struct Network {
    runtime: Option<Runtime>,
    pub limits: Limits,
}

impl Network {
    /// Starts them.
    ///
    /// # Errors
    /// As pthread_create(3).
    pub fn start(limits: Limits) -> Result<Network> {
        // Fails where one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("store")
            .enable_all()
            .build()
            .map_err(Failure::local)?;
        Ok(Network {
            runtime: Some(runtime),
            limits,
        })
    }

    /// Waits for a future. It runs on the calling thread, so it may read and write files; what it spawns must not.
    pub fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> Result<T> {
        match &self.runtime {
            Some(runtime) => runtime.block_on(future),
            None => Err(Failure::new(Kind::Unreachable, "the store was closed")),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Without waiting for a name server that does not answer.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends() {
        let limits = Limits {
            retries: 2,
            ..Limits::default()
        };
        let network = Network::start(limits).unwrap();
        let tries = network.wait(async {
            let mut patience = Patience::new(limits);
            let mut tries = 0;
            while patience.again(None).await {
                tries += 1;
            }
            Ok(tries)
        });
        assert_eq!(tries.unwrap(), 2);
    }
}
