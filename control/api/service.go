// Package api has the parts of the HTTP API of Drover, version 1, that servers and clients share:
//
//   - the types of requests and responses,
//   - the interfaces: control implements Service and Members, the agent of a host implements Local, and a store in a
//     file (control/store/bolt) implements Backup; *client.Client implements all of them,
//   - the caller of a request (Principal), and one line of the audit log (Change).
//
// Control, the agents and the command line use the package. It keeps no state. A new endpoint is a row of the table in
// package endpoint and a handler in package server. If a program uses it, it also gets a method in an interface here
// and in package client. The tests of package server require rows for it in powers_test.go and roundtrip_test.go. Run
// go generate ./control/api/openapi for the document.
//
// Package endpoint is the table of endpoints, package server has the handlers, package client the typed client, package
// wire the representation in HTTP, and package openapi the OpenAPI document.
//
// An error is sent as RFC 9457 problem details with the stable code of its dataset.Kind. The client returns an error of
// the same kind. If the server cannot be reached, the client returns dataset.ErrUnavailable.
package api

import (
	"context"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Service is the API of control. *client.Client implements it too, so an agent sends its requests in the same way
// whether control is in its process or on another host. All methods are safe for concurrent use.
type Service interface {
	Users
	Nodes
}

// Users are the requests of users and programs.
type Users interface {
	// Submit plans a request and records the operation for the agent of its node. If nothing has to be done, the
	// outcome has no operation. Idempotent by Request.ID. With Request.DryRun nothing is recorded or changed.
	Submit(ctx context.Context, req Request) (Outcome, error)
	Volume(ctx context.Context, ref string) (Volume, error)
	Volumes(ctx context.Context, p Page) (List[Volume], error)
	// VolumeSummaries lists the same volumes as Volumes. The caller must not change the items.
	VolumeSummaries(ctx context.Context, p Page) (List[VolumeSummary], error)
	Trash(ctx context.Context, p Page) (List[Volume], error)
	// Snapshots lists the snapshots of one volume or, if ref is empty, of all.
	Snapshots(ctx context.Context, ref string, p Page) (List[dataset.Snapshot], error)
	// Snapshot returns a snapshot by a prefix of its UUID, by VOLUME@SNAPSHOT or, if ref names a volume, by its name.
	Snapshot(ctx context.Context, ref, snapshot string) (dataset.Snapshot, error)
	Profiles(ctx context.Context) ([]ListedProfile, error)
	Profile(ctx context.Context, name string) (dataset.Profile, error)
	Pools(ctx context.Context) ([]Pool, error)
	// NodeList lists the nodes for which an expression over facts is true. The empty expression is true for all.
	NodeList(ctx context.Context, filter string) ([]Node, error)
	// Cordon sets whether new datasets may be placed on a node. Idempotent.
	Cordon(ctx context.Context, node uuid.UUID, set Cordoned) (dataset.Node, error)
	// LabelNode sets and removes labels of a node. Setting is idempotent. The removal of a label that is absent fails
	// with ErrNotFound, which lists the labels.
	LabelNode(ctx context.Context, node uuid.UUID, change dataset.LabelChange) (dataset.Node, error)
	// Repositories lists the repositories for backups by name.
	Repositories(ctx context.Context) ([]dataset.Repository, error)
	Repository(ctx context.Context, name string) (dataset.Repository, error)
	// AddRepository records a repository. Control does not open it. Idempotent: the same repository can be added again.
	// It fails with ErrExists if the name belongs to another repository.
	AddRepository(ctx context.Context, r NewRepository) (dataset.Repository, error)
	// RemoveRepository removes the record of a repository. The backups in the repository stay. Without force, it fails
	// with dataset.ErrInUse while the profile of a volume schedules backups to the repository.
	RemoveRepository(ctx context.Context, name string, force bool) error
	// Fence records an operator's confirmation that an unreachable node no longer writes. Idempotent.
	Fence(ctx context.Context, node uuid.UUID, f Fenced) (dataset.Node, error)
	Failover(ctx context.Context) (FailoverState, error)
	// ClusterHealth returns the state of the store, the control replicas and the nodes. What cannot be read is a
	// finding in the result.
	ClusterHealth(ctx context.Context) (ClusterHealth, error)
	Operations(ctx context.Context, p Page) (List[dataset.Operation], error)
	// Operation returns an operation. With wait > 0 it first waits for the end of the operation or, while the
	// operation is running, for a change of its progress, but no longer than wait.
	Operation(ctx context.Context, id string, wait time.Duration) (dataset.Operation, error)
	CancelOperation(ctx context.Context, id string) (dataset.Operation, error)
	// Events calls fn for each event after the given ID. With follow it continues until ctx ends or fn returns an
	// error; without it, Events returns after the newest event.
	Events(ctx context.Context, after uint64, follow bool, fn func(Event) error) error
	Version(ctx context.Context) (Version, error)
}

// Nodes are the requests of agents, each for its own node.
type Nodes interface {
	Register(ctx context.Context, r Registration) error
	// Renew reports that the node's agent is alive. It returns how long the agent counts as alive from now on.
	Renew(ctx context.Context, node, incarnation uuid.UUID) (SessionState, error)
	// Generations reports the generations of the node's pools. It returns the highest generation of each pool
	// that the store or this service knows.
	Generations(ctx context.Context, node uuid.UUID, g Generations) (Generations, error)
	// Plan decides on a request that the node itself will carry out. It writes nothing.
	Plan(ctx context.Context, node uuid.UUID, req Request) (Plan, error)
	// Commit records the result of an operation in one transaction, which checks all records on which the decision
	// depends. Idempotent by operation ID.
	Commit(ctx context.Context, node uuid.UUID, r Report) (Committed, error)
	// Record records that an operation is running, because it takes longer than its caller can wait.
	Record(ctx context.Context, node uuid.UUID, r Report) error
	// Sync waits for changes of the node's datasets and operations after the revision rev. With rev 0 it returns
	// all of them at once.
	Sync(ctx context.Context, node uuid.UUID, rev uint64, wait time.Duration) (Sync, error)
	Heartbeat(ctx context.Context, node uuid.UUID, h Heartbeat) error
	// Recall asks the home of a dataset to relinquish its lease for a move. The agent of the target calls it. Recall
	// returns the present operation, and the caller waits with Operation for the answer of the home. Idempotent.
	Recall(ctx context.Context, node uuid.UUID, r Report) (dataset.Operation, error)
	// Yield is the answer of the home to a recall.
	Yield(ctx context.Context, node uuid.UUID, y Yield) error
	// ReportCopy reports the state of the node's copy of a dataset.
	ReportCopy(ctx context.Context, node uuid.UUID, c CopyReport) error
	// ReportSharedMount reports that the node will mount a dataset of another home, that it needs exclusive use of a
	// dataset whose home it is, or that such a use has ended. Idempotent by the ID of the shared mount.
	ReportSharedMount(ctx context.Context, node uuid.UUID, g SharedMountReport) (IndexedDataset, error)
	// Facts reports the facts of the host and returns the recorded ones. Control does not write small changes to the
	// store, and writes no change within a minute of the last one.
	Facts(ctx context.Context, node uuid.UUID, r FactsReport) (dataset.Facts, error)
	// ReportHoldings reports the datasets and copies of the node, for a recovery that asked for them. Control keeps
	// the report in memory. A later report replaces an earlier one.
	ReportHoldings(ctx context.Context, node uuid.UUID, h Holdings) error
	// Rebuild restores the records of datasets that were found in the node's pools. With dryRun it changes nothing, and
	// the pools need not be recorded yet.
	Rebuild(ctx context.Context, node uuid.UUID, found []FoundDataset, dryRun bool) ([]Rebuilt, error)
}

// Local are the requests that the agent of this host answers without control.
type Local interface {
	Doctor(ctx context.Context) ([]Finding, error)
	// Collect destroys one dataset that the store does not know. id is its full UUID. It is the garbage collection
	// that drover doctor proposes. With dryRun it destroys nothing, and returns the error that it would return
	// otherwise.
	Collect(ctx context.Context, id uuid.UUID, dryRun bool) (Collected, error)
	CreatePool(ctx context.Context, p NewPool) (dataset.Pool, error)
	// AdoptPool adopts the pool at a path. With dryRun it opens the pool and closes it again, and records nothing. The
	// result is what the adoption would return.
	AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []Rebuilt, error)
	// AcceptPool lets a quarantined pool serve in its present state.
	AcceptPool(ctx context.Context, name string, a AcceptPool) (dataset.Pool, error)
	// SetPool changes the policy of a pool.
	SetPool(ctx context.Context, name string, p PoolPolicy) (dataset.Pool, error)
	// RemovePool removes an empty pool. With how.Forget it only deletes the record. With how.DryRun it changes
	// nothing, and returns the error that it would return otherwise.
	RemovePool(ctx context.Context, name string, how PoolRemoval) (RemovedPool, error)
	// RebuildStore restores the records of the datasets in the pools of this host. It fails with ErrOffline while a
	// pool is offline, unless r.SkipOffline is set. With r.DryRun it changes nothing.
	RebuildStore(ctx context.Context, r RebuildStore) ([]Rebuilt, error)
	// Export writes a volume, or one snapshot of it, to w as a tar archive. It returns the files that the archive does
	// not contain.
	Export(ctx context.Context, ref, snapshot string, w io.Writer) (OmittedFiles, error)
	// Import creates a volume from a tar archive.
	Import(ctx context.Context, req Request, r io.Reader) (dataset.Dataset, error)
	// SnapshotSpace returns how much space the deletion of a snapshot frees. The snapshot is given by a prefix of its
	// UUID. It fails with ErrUnsupported if the backend of the pool cannot tell.
	SnapshotSpace(ctx context.Context, snapshot string) (SnapshotSpace, error)
	// VolumeIO returns how much the mounted volumes of this host were read and written. Volumes without a block device
	// of their own are left out.
	VolumeIO(ctx context.Context) ([]VolumeIO, error)
	// VolumeHolders returns who uses a volume of this host. What cannot be examined is no error: the result lists it.
	// It fails with ErrNotFound, and with ErrUnsupported if the home of the volume is another node.
	VolumeHolders(ctx context.Context, volume string) (dataset.Holders, error)
	// Diff compares two snapshots of a dataset, or a snapshot with the present data if newer is empty.
	Diff(ctx context.Context, older, newer string) (Diff, error)
	// CheckRepository opens a repository for backups from this host, and checks a recorded one. It fails with
	// ErrNotFound if there is no repository, with ErrForbidden if the password is wrong, with ErrCorrupt if data are
	// missing or damaged. It fails with ErrInUse if another run of restic has the repository, or if too many checks run
	// on this host.
	CheckRepository(ctx context.Context, c RepositoryCheck) (RepositoryState, error)
	// VolumeBackups lists the backups in a recorded repository, oldest first: those of one volume or, if volume is
	// empty, all. Backups of volumes that no longer exist, and of other clusters, are listed, too.
	VolumeBackups(ctx context.Context, repository, volume string) (BackupList, error)
	// Versions lists the versions of volumes in a recorded repository: those of one name or, if name
	// is empty, all. Versions that other clusters pushed are listed, too.
	Versions(ctx context.Context, repository, name string) (VersionList, error)
	// VolumeBackup returns a backup in a recorded repository, with the record of its volume. It fails with ErrNotFound
	// if there is no such backup, and with ErrInvalid if Drover has not made it.
	VolumeBackup(ctx context.Context, repository, id string) (VolumeBackup, error)
	// RemoveBackup removes a backup from a recorded repository. Its data remain until PruneRepository is called. It
	// fails with ErrNotFound if there is no such backup, and with ErrInvalid if Drover has not made it.
	RemoveBackup(ctx context.Context, repository, id string) error
	// PruneRepository removes the data that no backup needs from a recorded repository. It fails with ErrInUse if
	// another run of restic uses the repository.
	PruneRepository(ctx context.Context, repository string) error
}

// Backup is a store that can be copied while it is in use.
type Backup interface {
	Backup(ctx context.Context, w io.Writer) error
}

// Principal is the caller of a request.
type Principal struct {
	pki.Identity // identity in the certificate; zero for a caller on this host
	// Local is true for this process and for callers that may use its socket. They have the same access to the
	// data as root of the host.
	Local bool
	From  string // address of the caller, or its user on this host; empty: this process
}

// String returns the name of the caller for errors and the audit log.
func (p Principal) String() string {
	switch {
	case p.Local && p.From == "":
		return "this process"
	case p.Local:
		return "local " + p.From
	case p.Kind == "":
		return "nobody"
	}
	return p.Identity.String()
}

type principalKey struct{}

// WithPrincipal returns a context for a request of the caller.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// PrincipalOf returns the caller of a request. Without a request, this process is the caller.
func PrincipalOf(ctx context.Context) Principal {
	if p, ok := ctx.Value(principalKey{}).(Principal); ok {
		return p
	}
	return Principal{Local: true}
}

var releaseForm = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(?:[.+-].*)?$`)

// release returns the major and minor number of a version. ok is false if the version is not a release, such as
// "dev" or a commit.
func release(version string) (major, minor int, ok bool) {
	m := releaseForm.FindStringSubmatch(version)
	if m == nil {
		return 0, 0, false
	}
	major, _ = strconv.Atoi(m[1]) // only a few digits, so it cannot fail
	minor, _ = strconv.Atoi(m[2])
	return major, minor, true
}

// Compatible returns ErrForbidden unless control and another program can work together. who names the other program in
// the error. Two programs can work together if their minor versions are equal or neighbours. This program cannot know
// which minor version of a major version is the last one. So version 2.0 counts as the neighbour of every 1.x. A
// version that is not a release works with every version.
func Compatible(control, version, who string) error {
	aMajor, aMinor, ok := release(control)
	bMajor, bMinor, ok2 := release(version)
	if !ok || !ok2 || aMajor == bMajor && max(aMinor, bMinor)-min(aMinor, bMinor) <= 1 ||
		bMajor == aMajor+1 && bMinor == 0 || aMajor == bMajor+1 && aMinor == 0 {
		return nil
	}
	older, newer := version, control
	first := who
	if bMajor > aMajor || bMajor == aMajor && bMinor > aMinor {
		older, newer, first = control, version, "control"
	}
	return dataset.Errorf(dataset.ErrForbidden,
		"%s is drover %s and control is %s: only neighbouring versions work together (upgrade %s first, from %s "+
			"to the same or the previous minor version as %s)",
		who, dataset.Clip(version), control, first, dataset.Clip(older), dataset.Clip(newer))
}
