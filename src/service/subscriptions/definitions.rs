//! Makes, changes, deletes and finds subscriptions, and computes where they begin.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::access::{may_use, may_use_stored};
use super::catalog::read_definition;
use super::{Common, SubscriptionError};
use crate::domain::Violation;
use crate::domain::scope::Rights;
use crate::domain::source::Source;
use crate::domain::subscription::{Definition, SettingsPatch, StartAt, SubscriptionSource};
use crate::domain::time::Timestamp;
use crate::service::aggregated::FindError;
use crate::service::auth::Caller;
use crate::service::read::{PlaceError, Reads, Start};
use crate::store::StoreError;
use crate::store::aggregated_streams::FoundStream;
use crate::store::subscriptions::{At, NewSubscription, State, StoredSubscription, Update};

/// How many subscriptions are read at once for a list of which some are left out.
const LISTED_AT_ONCE: usize = 200;
/// Attempts to make a subscription that other requests make and delete at the same moment.
const PUT_ATTEMPTS: usize = 5;

/// What came of putting a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    New,
    /// There was one with the same definition already.
    Same,
}

/// A partition's cursor before and after a seek: everything up to `to` counts as acked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeekPlan {
    pub partition: i32,
    pub from: i64,
    pub to: i64,
}

/// The cursors of a new subscription.
struct Beginning {
    aggregated_stream_id: Option<i64>,
    /// For each partition the position before its first message.
    cursors: Vec<At>,
    first_position: i64,
}

/// The longest that finding the end of an aggregated stream waits for its projection. A projection that is paused or
/// stopped is not waited for.
const PROJECTION_WAIT_MAX: Duration = Duration::from_secs(5);

/// Which subscriptions there are, how they are defined, and where they begin.
pub struct Definitions {
    pub(super) common: Arc<Common>,
    pub(super) reads: Reads,
}

impl Definitions {
    /// Makes a subscription. A second call with the same definition changes nothing.
    pub async fn put(&self, name: &str, definition: &Definition, caller: &Caller) -> Result<Put, SubscriptionError> {
        let violations = definition.check();
        if !violations.is_empty() {
            return Err(SubscriptionError::Invalid(violations));
        }
        for _ in 0..PUT_ATTEMPTS {
            if let Some(stored) = self.common.database.subscriptions().get(name).await? {
                let existing = read_definition(&stored)?;
                may_use_stored(&stored, &existing, caller.rights())?;
                let fields = existing.differences(&definition.of_the_kind_of(&existing));
                return match fields.is_empty() {
                    true => Ok(Put::Same),
                    false => Err(SubscriptionError::Differs { name: name.into(), fields }),
                };
            }
            if self.create(name, definition, caller).await? {
                return Ok(Put::New);
            }
        }
        let max_of_credential = self.common.settings.subscriptions_per_credential_max;
        let of_credential = match caller.credential() {
            Some(credential) => self.common.database.subscriptions().count_by(credential).await?,
            None => 0,
        };
        Err(match max_of_credential > 0 && of_credential >= max_of_credential as i64 {
            true => SubscriptionError::TooManyOfCredential { max: max_of_credential },
            false => SubscriptionError::TooManySubscriptions { max: self.common.settings.subscriptions_max },
        })
    }

    async fn create(&self, name: &str, definition: &Definition, caller: &Caller) -> Result<bool, SubscriptionError> {
        let mut definition = definition.clone();
        match &definition.source {
            SubscriptionSource::Aggregated(name) => {
                if self.aggregated_stream(name, caller.rights()).await?.is_keyed {
                    definition.source = SubscriptionSource::Keyed(name.clone());
                }
            }
            source => may_use(source, None, caller.rights())?,
        }
        let definition = &definition;
        let beginning = self.beginning(definition, caller.rights()).await?;
        let partitions: Vec<i32> = beginning.cursors.iter().map(|cursor| cursor.partition).collect();
        let cursors: Vec<i64> = beginning.cursors.iter().map(|cursor| cursor.position).collect();
        let id = self
            .common
            .database
            .subscriptions()
            .create(NewSubscription {
                name,
                definition: &text_of(definition),
                is_partitioned: definition.is_partitioned(),
                aggregated_stream_id: beginning.aggregated_stream_id,
                ack_timeout_ms: definition.settings.ack_timeout_ms,
                consumer_timeout_ms: definition.settings.consumer_timeout_ms,
                first_position: beginning.first_position,
                partitions: &partitions,
                cursors: &cursors,
                subscriptions_max: self.common.settings.subscriptions_max as i64,
                created_by: caller.credential().map(|name| &**name),
                max_of_credential: self.common.settings.subscriptions_per_credential_max as i64,
            })
            .await?;
        Ok(id.is_some())
    }

    async fn beginning(&self, definition: &Definition, rights: &Rights) -> Result<Beginning, SubscriptionError> {
        let SubscriptionSource::Aggregated(name) = &definition.source else {
            let aggregated_stream_id = match &definition.source {
                SubscriptionSource::Keyed(name) => Some(self.aggregated_stream(name, rights).await?.id),
                _ => None,
            };
            let after = self.log_cursor(definition, definition.from).await?;
            let count = if definition.is_partitioned() { definition.partitions as i32 } else { 1 };
            let cursors = (0..count).map(|partition| At { partition, position: after }).collect();
            return Ok(Beginning { aggregated_stream_id, cursors, first_position: 0 });
        };
        let id = self.aggregated_stream(name, rights).await?.id;
        let cursors = self.aggregated_cursors(id, name, definition.from).await?;
        Ok(Beginning { aggregated_stream_id: Some(id), cursors, first_position: first_position(definition.from) })
    }

    async fn aggregated_stream(&self, name: &str, rights: &Rights) -> Result<FoundStream, SubscriptionError> {
        self.common.aggregated.find(name, rights).await.map_err(|error| match error {
            FindError::NotFound { .. } => {
                let rule = "must name an existing aggregated stream";
                SubscriptionError::Invalid(vec![Violation::new("source.aggregated_stream", rule)])
            }
            FindError::Forbidden(missing) => missing.into(),
            FindError::Store(error) => error.into(),
        })
    }

    /// Where to begin in a log, the same for all partitions.
    async fn log_cursor(&self, definition: &Definition, to: StartAt) -> Result<i64, SubscriptionError> {
        // A keyed aggregated stream has the positions of the whole log.
        let log = definition.log().unwrap_or_else(Source::all);
        let start = match to {
            StartAt::Beginning => Start::Beginning,
            StartAt::End => Start::End,
            StartAt::Position(position) => Start::At(position),
            StartAt::Time(micros) => Start::AtTime(Timestamp(micros)),
        };
        match self.reads.place(&log, start).await {
            Ok(place) => Ok(place.position()),
            Err(PlaceError::Store(error)) => Err(error.into()),
            // This is said of cursors, and none is given here.
            Err(PlaceError::HistoryChanged { head, .. }) => Ok(head),
        }
    }

    /// Where to begin in each partition that has messages. An end, or a time, is meant as one of the whole log, so what is
    /// in the log already has to be projected before the positions are read.
    async fn aggregated_cursors(&self, id: i64, name: &str, to: StartAt) -> Result<Vec<At>, StoreError> {
        if matches!(to, StartAt::End | StartAt::Time(_)) {
            self.common.aggregated.project_what_is_settled(name, PROJECTION_WAIT_MAX).await?;
        }
        let partitions = self.common.database.aggregated_streams().partitions(id).await?;
        let at_time: HashMap<i32, i64> = match to {
            StartAt::Time(micros) => {
                let first = self.common.database.messages().first_global_position_at(Timestamp(micros)).await?;
                self.common.database.aggregated_streams().positions(id, first).await?.into_iter().collect()
            }
            StartAt::Beginning | StartAt::End | StartAt::Position(_) => HashMap::new(),
        };
        let cursor = |partition: i32, message_count: i64| match to {
            StartAt::Beginning => -1,
            StartAt::End => message_count - 1,
            StartAt::Position(position) => position - 1,
            StartAt::Time(_) => at_time.get(&partition).map_or(-1, |position| position - 1),
        };
        let cursors = partitions
            .iter()
            .map(|one| At { partition: one.partition, position: cursor(one.partition, one.message_count) });
        Ok(cursors.collect())
    }

    /// Changes settings; those that are not given stay.
    pub async fn patch(&self, name: &str, patch: SettingsPatch, rights: &Rights) -> Result<(), SubscriptionError> {
        // An attempt fails only if another request has changed the subscription since it was read, so that they end.
        loop {
            let (stored, mut definition) = self.common.stored(name, rights).await?;
            definition.settings = definition.settings.patched(patch.clone());
            let violations = definition.check();
            if !violations.is_empty() {
                return Err(SubscriptionError::Invalid(violations));
            }
            let update = Update {
                definition: Some((&stored.definition, &text_of(&definition))),
                ack_timeout_ms: Some(definition.settings.ack_timeout_ms),
                consumer_timeout_ms: Some(definition.settings.consumer_timeout_ms),
                state: None,
            };
            if let Some(id) = self.common.database.subscriptions().update(name, update).await? {
                self.changed(id);
                return Ok(());
            }
        }
    }

    pub async fn pause(&self, name: &str, rights: &Rights) -> Result<(), SubscriptionError> {
        self.check(name, rights).await?;
        self.set_state(name, State::Paused).await
    }

    /// Lets a subscription go on that was paused or has stopped.
    pub async fn resume(&self, name: &str, rights: &Rights) -> Result<(), SubscriptionError> {
        self.check(name, rights).await?;
        self.set_state(name, State::Running).await
    }

    /// Refused unless the caller may use the subscription.
    async fn check(&self, name: &str, rights: &Rights) -> Result<(), SubscriptionError> {
        match rights {
            Rights::Everything => Ok(()),
            Rights::Only(_) => self.common.reload(name, rights).await.map(drop),
        }
    }

    async fn set_state(&self, name: &str, state: State) -> Result<(), SubscriptionError> {
        let update = Update { state: Some(state), ..Update::default() };
        let id = self.common.database.subscriptions().update(name, update).await?;
        let id = id.ok_or_else(|| SubscriptionError::NotFound { name: name.into() })?;
        self.changed(id);
        Ok(())
    }

    pub async fn delete(&self, name: &str, rights: &Rights) -> Result<(), SubscriptionError> {
        self.check(name, rights).await?;
        let id = self.common.database.subscriptions().delete(name).await?;
        let id = id.ok_or_else(|| SubscriptionError::NotFound { name: name.into() })?;
        self.changed(id);
        Ok(())
    }

    /// Subscriptions that the caller may use, in order of name, after a name.
    pub async fn list(
        &self,
        after: &str,
        limit: usize,
        rights: &Rights,
    ) -> Result<Vec<(StoredSubscription, Definition)>, SubscriptionError> {
        let at_once = if *rights == Rights::Everything { limit } else { limit.max(LISTED_AT_ONCE) };
        let (mut after, mut listed) = (after.to_owned(), Vec::new());
        loop {
            let found = self.common.database.subscriptions().list(&after, at_once as i64).await?;
            let is_end = found.len() < at_once;
            if let Some(last) = found.last() {
                after.clone_from(&last.name);
            }
            for stored in found {
                let definition = read_definition(&stored)?;
                let is_by_name = rights.subscribe(&stored.name).is_ok();
                match may_use_stored(&stored, &definition, rights) {
                    Ok(()) if is_by_name => listed.push((stored, definition)),
                    Ok(()) | Err(SubscriptionError::Forbidden(_)) => {}
                    Err(error) => return Err(error),
                }
            }
            if is_end || listed.len() >= limit {
                listed.truncate(limit);
                return Ok(listed);
            }
        }
    }

    /// Sets the cursors of all partitions, or of some; a dry run only answers where they would go.
    pub async fn seek(
        &self,
        name: &str,
        to: StartAt,
        partitions: Option<&[i32]>,
        is_dry_run: bool,
        rights: &Rights,
    ) -> Result<Vec<SeekPlan>, SubscriptionError> {
        let (stored, definition) = self.common.stored(name, rights).await?;
        // The places first: until they are known, more of an aggregated stream may be projected, in more partitions.
        let (mut log_cursor, mut places) = (None, HashMap::new());
        match (stored.aggregated_stream_id, &definition.source) {
            (Some(id), SubscriptionSource::Aggregated(name)) => {
                let cursors = self.aggregated_cursors(id, name, to).await?;
                places.extend(cursors.into_iter().map(|cursor| (cursor.partition, cursor.position)));
                self.common.find_partitions(&stored).await?;
            }
            _ => log_cursor = Some(self.log_cursor(&definition, to).await?),
        }
        let cursors = self.common.database.subscriptions().cursors(stored.id).await?;
        for (at, partition) in partitions.unwrap_or_default().iter().enumerate() {
            if !cursors.iter().any(|cursor| cursor.partition == *partition) {
                let violation = Violation::new(format!("partitions[{at}]"), "must be a partition of the subscription");
                return Err(SubscriptionError::Invalid(vec![violation]));
            }
        }
        let plans: Vec<SeekPlan> = cursors
            .into_iter()
            .filter(|cursor| partitions.is_none_or(|wanted| wanted.contains(&cursor.partition)))
            .filter_map(|cursor| {
                let to = log_cursor.or_else(|| places.get(&cursor.partition).copied())?;
                Some(SeekPlan { partition: cursor.partition, from: cursor.position, to })
            })
            .collect();
        if !is_dry_run {
            let cursors: Vec<At> =
                plans.iter().map(|plan| At { partition: plan.partition, position: plan.to }).collect();
            let first_position = (log_cursor.is_none() && partitions.is_none()).then(|| first_position(to));
            self.common.database.subscriptions().seek(stored.id, &cursors, first_position).await?;
            self.common.wakers.wake(stored.id);
        }
        Ok(plans)
    }

    /// A subscription was changed or deleted: its consumers take a round, here and on other instances.
    fn changed(&self, id: i64) {
        self.common.have_changed(&[id]);
        self.common.signals.changed(id);
    }
}

/// Where a partition of an aggregated stream begins that appears after the cursors were set.
fn first_position(from: StartAt) -> i64 {
    match from {
        StartAt::Position(position) => position,
        StartAt::Beginning | StartAt::End | StartAt::Time(_) => 0,
    }
}

fn text_of(definition: &Definition) -> String {
    // A definition has texts, numbers and lists only, so that this cannot fail.
    serde_json::to_string(definition).unwrap_or_default()
}
