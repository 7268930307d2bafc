//! Defects that the protocol could have had. Each must be caught.

/// What is wrong with a mutated protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mutation {
    /// The protocol as built.
    None,
    /// Statements of an attempt don't ask whether it is still the newest.
    NoFence,
    /// Redis takes entries below the stream's last.
    NoFenceInTheStream,
    /// The job is acknowledged when the answer is ready, then it is committed.
    AcknowledgeBeforeCommit,
    /// The terminal event is appended, then the end is committed.
    TerminalBeforeCommit,
    /// A running task is taken over whether or not its worker is alive.
    TakeoverWithoutHeartbeatCheck,
    /// After an outage of PostgreSQL, the first worker that is back judges.
    NoSteadyCheck,
    /// An append of unknown outcome is repeated with what was said meanwhile.
    RepeatWithOtherContent,
    /// Redis came back, perhaps without its tail, and the log just goes on.
    NoSnapshotAfterReconnect,
    /// A snapshot says what the model said and not what was written.
    SnapshotSaysUnsentText,
    /// An end takes the ID right behind an append of unknown outcome.
    EndBehindUnknownAppend,
    /// What an earlier attempt completed is asked for again.
    IgnoresHistory,
    /// Nobody adds jobs that Redis lost.
    NoRelay,
    /// Readers forward what follows a gap.
    ReaderIgnoresGaps,
    /// Who finds another's end under the ID and data of its own takes it for its
    /// own, whatever the answer.
    SameEndOtherAnswer,
    /// Events of newer versions are dropped where they are read, and so leave gaps.
    NewerEventsLeaveGaps,
    /// A worker passes over content that only a newer one understands.
    OlderFoldsNewerContent,
    /// A terminal event that was not confirmed is not waited for.
    AcknowledgeBeforeTerminal,
}
