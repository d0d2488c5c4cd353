package api

import (
	"time"

	"github.com/google/uuid"
)

// EventType says what happened.
type EventType string

// The types of events. To add a type, add a constant here, and publish the event where the change is made: with
// record.Tx.Event, or in the Events of a record.Notice. Then run go generate ./control/api/openapi.
const (
	EventVolumeCreate      EventType = "volume.create"       // a volume was created
	EventVolumeClone       EventType = "volume.clone"        // a volume was created as a clone
	EventVolumeImport      EventType = "volume.import"       // a volume was created from a folder or archive
	EventVolumeUpdate      EventType = "volume.update"       // the profile, labels, protection or aliases changed
	EventVolumeRename      EventType = "volume.rename"       // a volume got another name
	EventVolumeResize      EventType = "volume.resize"       // the size of a volume changed
	EventVolumeRekey       EventType = "volume.rekey"        // the data key of a volume was wrapped again
	EventVolumePush        EventType = "volume.push"         // a volume was pushed to a repository
	EventVolumeBackup      EventType = "volume.backup"       // a volume was backed up to a repository
	EventVolumeVerify      EventType = "volume.verify"       // a backup of a volume was restored and compared
	EventVolumeVerifyFail  EventType = "volume.verify_fail"  // a backup of a volume could not be restored
	EventVolumeMove        EventType = "volume.move"         // a volume moved to another node
	EventVolumeFailover    EventType = "volume.failover"     // a volume continued without its home
	EventVolumeLease       EventType = "volume.lease"        // a move failed, and the home has its lease again
	EventVolumeSharedMount EventType = "volume.shared_mount" // another node than the home began or ended a use
	EventVolumeDelete      EventType = "volume.delete"       // a volume was deleted
	EventVolumeUndelete    EventType = "volume.undelete"     // a volume was restored from the trash
	EventVolumePurge       EventType = "volume.purge"        // a dataset in the trash is destroyed on request
	EventVolumeShow        EventType = "volume.show"         // a superseded copy is mounted for inspection
	EventVolumeHide        EventType = "volume.hide"         // a superseded copy is no longer mounted
	EventVolumeDiscard     EventType = "volume.discard"      // a superseded copy was discarded
	EventVolumeForget      EventType = "volume.forget"       // data that only a removed node had is no longer recorded
	EventVolumeRebuild     EventType = "volume.rebuild"      // the record of a dataset was restored from a pool
	EventVolumeNearly      EventType = "volume.nearly_full"  // a volume is nearly full
	EventVolumeFull        EventType = "volume.full"         // a volume is full
	EventVolumeNotFull     EventType = "volume.not_full"     // a volume has space again
	EventSnapshotCreate    EventType = "snapshot.create"     // a snapshot was taken
	EventSnapshotDelete    EventType = "snapshot.delete"     // a snapshot was deleted
	EventSnapshotRestore   EventType = "snapshot.restore"    // a volume was restored to a snapshot
	EventTrashExpire       EventType = "trash.expire"        // a dataset in the trash expired and is destroyed
	EventTrashHold         EventType = "trash.hold"          // datasets stay in the trash longer: the clock jumped
	EventNodeLive          EventType = "node.live"           // the agent of a node registered
	EventNodeAway          EventType = "node.away"           // a node became unreachable
	EventNodeLeave         EventType = "node.leave"          // the agent of a node was stopped
	EventNodeFence         EventType = "node.fence"          // an operator confirmed that a node is fenced
	EventNodeCordon        EventType = "node.cordon"         // a node was cordoned
	EventNodeUncordon      EventType = "node.uncordon"       // the cordon of a node ended
	EventNodeDrain         EventType = "node.drain"          // a node is being drained
	EventNodeLabel         EventType = "node.label"          // the labels of a node changed
	EventNodeRemove        EventType = "node.remove"         // a node was removed
	EventPoolFull          EventType = "pool.full"           // a pool is nearly full
	EventPoolOffline       EventType = "pool.offline"        // a pool went offline
	EventPoolOnline        EventType = "pool.online"         // a pool is online again
	EventPoolHeld          EventType = "pool.held"           // a pool was quarantined
	EventPoolRemove        EventType = "pool.remove"         // a pool was removed
	EventOperationFail     EventType = "operation.fail"      // an operation failed
	EventRepositoryAdd     EventType = "repository.add"      // a repository for backups was added
	EventRepositoryRemove  EventType = "repository.remove"   // a repository was removed; its backups stay
	EventFailoverHalt      EventType = "failover.halt"       // automatic failover was suspended
	EventFailoverResume    EventType = "failover.resume"     // automatic failover is possible again
	EventStoreRecover      EventType = "store.recover"       // a record was corrected, or the store was recovered
)

// Event is one event of the cluster, such as the creation of a volume.
type Event struct {
	// number of the event, which grows; unique until the server restarts
	ID      uint64    `json:"id"`
	Time    time.Time `json:"time"`             // when the event happened
	Type    EventType `json:"type"`             // what happened
	Volume  string    `json:"volume,omitempty"` // name of the volume concerned; empty: none
	Dataset uuid.UUID `json:"dataset,omitzero"` // UUID of the dataset concerned; absent: none
	Node    string    `json:"node,omitempty"`   // name of the node concerned; empty: none
	Detail  string    `json:"detail,omitempty"` // explanation for a person; empty: none
	// who requested the change, as in the record of an operation; absent: Drover itself, or not known
	By     string            `json:"by,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // labels of the volume concerned
}
