package condition

// onControl finds conditions of the cluster. drover status and the health of the cluster report them.
const onControl source = "control"

// What control finds.
var (
	StoreUnreadable  = onControl.error("store-unreadable", "%v cannot be read: %v", "it can be read")
	StoreUnavailable = onControl.error("store-unavailable",
		"%v; nothing can be created, moved or deleted (mounted volumes keep working)", "the store has a leader").
		alert("DroverStoreHasNoLeader").
		fix("start the Consul servers that are down, and check the network between them (consul operator raft " +
			"list-peers)")
	StoreServerDown = onControl.warning("store-server-down", "Consul server %v (%v) is down or far behind the leader%v",
		"the server follows the leader, or is removed").alert("DroverStoreServerDown").
		fix("start that server, or replace it and remove it from Consul (consul operator raft list-peers)")
	StoreServersFew = onControl.warning("store-servers-few",
		"only %v Consul servers are left; if one fails, nothing can be created, moved or deleted", "there are three").
		fix("start the server that Consul removed after it failed (consul members), or add another one")
	NodeSilent = onControl.warning("node-silent",
		"not reporting for %v: its agent has stopped or hangs, or does not reach this control replica", "it reports")
	ClockWrong = onControl.warning("clock-wrong", "its clock is %v %v that of control: times of its snapshots and "+
		"replicas are wrong, and certificates may be refused", "the difference is at most a minute").
		fix("on that host: timedatectl status, and start its time synchronization")
	FailoverHalted = onControl.error("failover-halted", "%v", "the nodes are back, or confirmed as fenced").
			alert("DroverFailoverHalted")
	FailoverHaltsSoon = onControl.warning("failover-halts-soon",
		"%v nodes do not report (%v): when their sessions end, failover is halted for the whole cluster",
		"they report").
		fix("drover node ls; start the agents of these nodes, or fix the connection to them")
	RecordsNotStored = onControl.warning("records-not-stored", "the records of control were %v; %v",
		"they are stored").alert("DroverRecordsNotStored")
	BackupsUnknown = onControl.warning("backups-unknown", "whether any is late is not known: %v",
		"the records can be read").
		fix("repeat the command")
	BackupWithoutRepository = onControl.warning("backup-without-repository",
		"its profile has it backed up to repository %v, which is not recorded", "the repository is recorded")
	BackupsApart = onControl.warning("backups-apart",
		"it was recovered from a backup of cluster %v, and is kept apart: it "+
			"makes no scheduled backups to repository %v, which that cluster may still use", "it is taken over")
	BackupFailing = onControl.warning("backup-failing",
		"its scheduled backup failed %v times, the last time because %v", "a backup succeeds")
	BackupLate = onControl.warning("backup-late", "its scheduled backup is %v late, and %v", "a backup succeeds").
			alert("DroverBackupLate")
	BackupNotVerified = onControl.warning("backup-not-verified", "the verification of its backups is %v late, and %v",
		"a verification succeeds").alert("DroverBackupNotVerified")
	BackupDamaged = onControl.error("backup-damaged", "its backup %v in %v failed a verification: %v",
		"the home verifies it, or a backup whose content is from after the damage was found, without an error")
	BackupRecordDamaged = onControl.error("backup-record-damaged", "%v", "a backup of the volume is verified").
				fix("verify a backup of the volume: drover backup verify VOLUME")
)
