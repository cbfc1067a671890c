//! Work in a task of its own, which goes on while its connection asks for nothing.

use tokio_util::task::AbortOnDropHandle;

/// A worker, or the task in which it works.
///
/// A connection asks for nothing while its client does not read. Work that stopped halfway then would hold a lock or a turn
/// that others wait for, so it is done in a task, which ends with the connection.
pub enum Detached<W, R> {
    Idle(W),
    AtWork(AbortOnDropHandle<(W, R)>),
    /// The task panicked, which is logged.
    Lost,
}

impl<W, R> Detached<W, R>
where
    W: Send + 'static,
    R: Send + 'static,
{
    /// Puts an idle worker to work.
    pub fn begin<F>(&mut self, work: impl FnOnce(W) -> F)
    where
        F: Future<Output = (W, R)> + Send + 'static,
    {
        match std::mem::replace(self, Self::Lost) {
            Self::Idle(worker) => *self = Self::AtWork(AbortOnDropHandle::new(tokio::spawn(work(worker)))),
            other => *self = other,
        }
    }

    /// Waits for the result of the work; `None` if it panicked. Cancel safe: dropping the future loses nothing.
    pub async fn done(&mut self) -> Option<R> {
        let Self::AtWork(task) = self else { return None };
        match task.await {
            Ok((worker, result)) => {
                *self = Self::Idle(worker);
                Some(result)
            }
            Err(_) => {
                *self = Self::Lost;
                None
            }
        }
    }
}
