package condition

// onClient finds conditions in the lists that the server returns. The server does not report them.
const onClient source = "drover status"

// What clients find.
var (
	ServerUnreadable    = onClient.error("server-unreadable", "cannot read the state: %v", "the server answers")
	OperatorCertExpired = onClient.error("operator-certificate-expired",
		"your certificate, of %v, expired %v: servers refuse it", "you use a new certificate")
	OperatorCertExpires = onClient.warning("operator-certificate-expires", "your certificate, of %v, expires %v",
		"you use a new certificate")
	MoreFindings = onClient.warning("more-findings", "has %v further findings", "the node has fewer findings").
			fix("run drover doctor on that host")
	NodeCordoned = onClient.info("node-cordoned", "%v: nothing new is placed on it", "the node is uncordoned")
	NodeDown     = onClient.error("node-unreachable", "unreachable%v; %v", "the node reports again").
			alert("DroverNodeDown")
	NodeDownUnused = onClient.warning("node-unreachable-unused", "unreachable%v; no volume has its home there",
		"the node reports again")
	VersionsDiffer = onClient.warning("versions-differ", "different versions run: %v", "all run the same version").
			fix("restart what runs an older one: first the control replicas, one after the other, then the guard and " +
			"agent " +
			"of each host")
	PoolUnreported = onClient.warning("pool-unreported", "the node has not reported the pool", "the node reports it")
	VolumeFailing  = onClient.error("volume-failing", "%v", "the home reports no problem").alert("DroverVolumeFailing")
	VolumeDegraded = onClient.warning("volume-degraded", "degraded: %v of %v complete%v", "all replicas are complete")
	ReplicaStale   = onClient.warning("replica-stale", "replica on node %v is stale: last verified %v",
		"it is refreshed").alert("DroverReplicaStale")
	CopyFailing  = onClient.warning("copy-failing", "copy on node %v: %v", "its node reports no problem")
	SnapshotLate = onClient.warning("snapshot-late", "a snapshot is late: it was due %v", "it is taken, or has failed").
			alert("DroverSnapshotLate")
	OperationSlow   = onClient.warning("operation-slow", "%v of %v started %v and still runs", "it ends")
	OperationFailed = onClient.warning("operation-failed", "%v of %v failed %v: %v",
		"it is repeated with success, or a day has passed").alert("DroverOperationFailed", "DroverSnapshotFailed")

	NodeWorks         = onClient.ok("node-works", "reachable, version %v")
	PoolOnline        = onClient.ok("pool-online", "online, %v of %v is free")
	ReplicaWorks      = onClient.ok("control-replica-works", "at %v, running since %v, version %v%v")
	StoreWorks        = onClient.ok("store-works", "%v, its leader is %v")
	VolumesWork       = onClient.ok("volumes-work", "without a problem: %v of %v")
	OperationsPending = onClient.ok("operations-pending", "in progress: %v")
)
