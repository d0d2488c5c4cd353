package api

import (
	"time"

	"github.com/google/uuid"
)

// The types of events. To add a type, add a constant here, and publish the event where the change is made: with
// record.Tx.Event, or in the Events of a notify.Notice.
const (
	EventVolumeCreate      = "volume.create"      // a volume was created
	EventVolumeClone       = "volume.clone"       // a volume was created as a clone
	EventVolumeImport      = "volume.import"      // a volume was created from a folder or archive
	EventVolumeUpdate      = "volume.update"      // the profile, labels or protection of a volume changed
	EventVolumeResize      = "volume.resize"      // the size of a volume changed
	EventVolumeRekey       = "volume.rekey"       // the data key of a volume was wrapped again
	EventVolumeRewrite     = "volume.rewrite"     // a volume was defragmented
	EventVolumeMove        = "volume.move"        // a volume moved to another node
	EventVolumeFailover    = "volume.failover"    // a volume continued without its home
	EventVolumeLease       = "volume.lease"       // a move ended without success, and the home has its lease again
	EventVolumeSharedMount = "volume.guest"       // a node other than the home began or ended its use of a volume
	EventVolumeDelete      = "volume.delete"      // a volume was deleted
	EventVolumeUndelete    = "volume.undelete"    // a volume was restored from the trash
	EventVolumePurge       = "volume.purge"       // a dataset in the trash is destroyed on request
	EventVolumeShow        = "volume.show"        // a superseded copy is mounted for inspection
	EventVolumeHide        = "volume.hide"        // a superseded copy is no longer mounted
	EventVolumeDiscard     = "volume.discard"     // a superseded copy was discarded
	EventVolumeForget      = "volume.forget"      // data that only a removed node had is no longer recorded
	EventVolumeRebuild     = "volume.rebuild"     // the record of a dataset was restored from a pool
	EventVolumeNearly      = "volume.nearly_full" // a volume is nearly full
	EventVolumeFull        = "volume.full"        // a volume is full
	EventVolumeNotFull     = "volume.not_full"    // a volume has space again
	EventSnapshotCreate    = "snapshot.create"    // a snapshot was taken
	EventSnapshotDelete    = "snapshot.delete"    // a snapshot was deleted
	EventSnapshotRestore   = "snapshot.restore"   // a volume was restored to a snapshot
	EventTrashExpire       = "trash.expire"       // a dataset in the trash is destroyed because its time has passed
	EventTrashHold         = "trash.hold"         // datasets stay in the trash longer, because the clock jumped
	EventNodeLive          = "node.live"          // the agent of a node registered
	EventNodeAway          = "node.away"          // a node became unreachable
	EventNodeLeave         = "node.leave"         // the agent of a node was stopped
	EventNodeFence         = "node.fence"         // an operator confirmed that a node is fenced
	EventNodeCordon        = "node.cordon"        // a node was cordoned
	EventNodeUncordon      = "node.uncordon"      // the cordon of a node ended
	EventNodeDrain         = "node.drain"         // a node is being drained
	EventNodeLabel         = "node.label"         // the labels of a node changed
	EventNodeRemove        = "node.remove"        // a node was removed
	EventPoolFull          = "pool.full"          // a pool is nearly full
	EventPoolOffline       = "pool.offline"       // a pool went offline
	EventPoolOnline        = "pool.online"        // a pool is online again
	EventPoolHeld          = "pool.held"          // a pool was quarantined
	EventPoolRemove        = "pool.remove"        // a pool was removed
	EventOperationFail     = "operation.fail"     // an operation failed
	EventFailoverHalt      = "failover.halt"      // automatic failover was suspended
	EventFailoverResume    = "failover.resume"    // automatic failover is possible again
	EventStoreRecover      = "store.recover"      // a record was corrected, or the store was recovered
)

// Event is one event of the cluster, such as the creation of a volume.
type Event struct {
	// number of the event, which grows; unique until the server restarts
	ID      uint64            `json:"id"`
	Time    time.Time         `json:"time"`             // when the event happened
	Type    string            `json:"type"`             // volume.create, snapshot.delete, pool.full …
	Volume  string            `json:"volume,omitempty"` // name of the volume concerned; empty: none
	Dataset uuid.UUID         `json:"dataset,omitzero"` // UUID of the dataset concerned; absent: none
	Node    string            `json:"node,omitempty"`   // name of the node concerned; empty: none
	Detail  string            `json:"detail,omitempty"` // explanation for a person; empty: none
	Labels  map[string]string `json:"labels,omitempty"` // labels of the volume concerned
}
