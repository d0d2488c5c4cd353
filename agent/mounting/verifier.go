package mounting

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/steps"
	"github.com/droverhq/drover/plugin"
)

// Verifier ends uses of datasets when the engine unmounts them, and finds out whether recorded uses have ended without
// an Unmount. Its methods are safe for concurrent use.
type Verifier struct {
	*Mounts
	started       time.Time     // the start of the agent by the clock of the host
	startedSteady time.Duration // the start of the agent by the steady clock

	mu sync.Mutex
	// verifyAt is when uses that may have ended unnoticed are checked next, by the steady clock, or 0 if there are
	// none.
	verifyAt time.Duration
	// restartUntil is the time until which an engine that has just started may mount its containers' volumes again.
	restartUntil time.Duration
}

// EndUse ends one use of an ID, durably, and reports whether it was the dataset's last one. An unknown ID changes
// nothing. If the dataset is still mounted elsewhere on the host, the use stays recorded, and is marked as ended
// (Use.Ended). If Podman stops waiting before the end is recorded, EndUse keeps Podman's use: Podman lowers its own
// count of the uses only after a successful answer, and the two counts must agree.
func (v *Verifier) EndUse(ctx context.Context, d dataset.Dataset, id string) (last bool, err error) {
	unlock, err := v.Locks.Lock(ctx, d.ID, "unmount of volume "+d.Volume)
	if err != nil {
		return false, err
	}
	defer unlock()
	before, r := v.Uses.Get(d.ID), v.Uses.Get(d.ID)
	if !v.applyUnmount(ctx, d, &r, id) {
		return false, nil
	}
	if err := v.saveUses(ctx, d, r); err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil && id == PodmanID {
		return false, errors.Join(fmt.Errorf("unmount of volume %s: %w", d.Volume, err), v.saveUses(ctx, d, before))
	}
	steps.At("unmount.recorded")
	v.News.Changed(d.ID)
	v.moves.AnswerIfRecalled(d.ID)
	return len(r.IDs) == 0, nil
}

// saveUses saves a record even if ctx has ended: an Unmount that was received must not be forgotten.
func (v *Verifier) saveUses(ctx context.Context, d dataset.Dataset, r Record) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := v.Uses.Save(ctx, d, 0, r, nil); err != nil {
		return fmt.Errorf("unmount of volume %s: %w", d.Volume, err)
	}
	return nil
}

// applyUnmount applies an Unmount of an ID to a record and reports whether the record changed. Before it ends the last
// use of the ID, it looks at the host, unless canEndUnverified returns true. The dataset's lock is held.
func (v *Verifier) applyUnmount(ctx context.Context, d dataset.Dataset, r *Record, id string) (changed bool) {
	c, ok := r.IDs[id]
	switch {
	case !ok:
		return false
	case c.Count > 1:
		c.Count--
		r.IDs[id] = c
		return true
	case v.canEndUnverified(*r, id):
		delete(r.IDs, id)
		return true
	}
	held := v.unexplainedMount(ctx, d, r.ExpectedMounts(id))
	if held == "" {
		delete(r.IDs, id)
		return true
	}
	v.ScheduleCheck(v.Clock.Steady())
	if c.Ended {
		return false
	}
	const stays = "the engine unmounted the volume, but it stays mounted as long as a process has it: "
	v.LogOf(ctx, d).WithField("id", id).Warn(stays + held)
	c.Ended, c.Count = true, 1
	r.IDs[id] = c
	return true
}

// canEndUnverified reports whether the last use of an ID may end without a look at the host. It may if other IDs use
// the dataset as well, and if the engine process that made the use also ends it. Such a process unmounts as often as
// it mounted, after the container has ended. The count of its uses is never too low: a Mount that the agent misses
// fails, and an Unmount that the agent misses leaves the count too high.
//
// The last ID of a dataset never ends without a look. When docker cp fails for any volume of a running container, even
// a volume of another driver, dockerd sends Unmount with the container's ID for all of its volumes (containerStatPath
// in moby's daemon/archive.go, seen with 20.10).
//
// An ID of an older engine process does not end without a look either, because its count can be too low (see
// Record.Add). Nor does Podman's ID: a user can run podman volume unmount while a container runs.
func (v *Verifier) canEndUnverified(r Record, id string) bool {
	c := r.IDs[id]
	if c.MayUndercount || c.Ended || c.Generation == 0 || id == PodmanID || v.Engines.HasEnded(id, c.Generation) {
		return false
	}
	return len(r.IDs) > 1
}

// unexplainedMount counts the mounts of a dataset besides its mount point. If there are more than expected, it returns
// a description of one of them, otherwise "". If the look at the host fails, it returns a description of the failure.
// The dataset's lock is held.
//
// It looks at mounts only, and not at open files: the engine waits for each last Unmount, and a look at open files
// takes about ten times as long. So a volume can be unmounted while a process outside of its containers still has a
// file of it open. No data is lost: the file stays usable, and restore, removal, move and the release of the guard look
// at open files.
func (v *Verifier) unexplainedMount(ctx context.Context, d dataset.Dataset, expected int) string {
	look, err := v.Holders.ScanMounts()
	if err != nil {
		return "cannot tell whether a process has it mounted: " + dataset.OneLine(err)
	}
	if list := v.Holders.Describe(ctx, look, d); len(list) > expected {
		return list[0]
	}
	return ""
}

// Unverified returns the uses of a dataset that may have ended:
//
//   - uses that the engine unmounted while a process still had the dataset mounted,
//   - uses of an engine process that has ended,
//   - uses from before the agent started, except Podman's: an engine that cannot reach the agent does
//     not repeat its Unmount. A Mount with the same ID since then proves nothing: the container may have
//     been stopped while there was no agent, and started again.
func (v *Verifier) Unverified(id uuid.UUID) map[string]Use {
	uses := v.Uses.Get(id).IDs
	maps.DeleteFunc(uses, func(id string, c Use) bool {
		return !c.Ended && !v.Engines.HasEnded(id, c.Generation) && (!c.Inherited || id == PodmanID)
	})
	return uses
}

const (
	// UnverifiedGrace is how long an engine may take after its start to mount the volumes of its
	// containers again.
	UnverifiedGrace = 20 * time.Second
	// VerifyEvery is the interval of the checks of unverified uses. A check reads all of /proc.
	VerifyEvery = time.Minute
)

// PostponeCheck postpones the check of unverified uses by UnverifiedGrace, because an engine may have
// restarted and needs the time to mount the volumes of its containers again.
func (v *Verifier) PostponeCheck() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.restartUntil = v.Clock.Steady() + UnverifiedGrace
	v.verifyAt = v.restartUntil
}

// ScheduleCheck schedules a check of the unverified uses for the first heartbeat after at.
func (v *Verifier) ScheduleCheck(at time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.verifyAt == 0 || at < v.verifyAt {
		v.verifyAt = max(at, 1)
	}
}

// CheckIfDue checks whether unverified uses have ended, if the check is due. A use may not have ended as long as the
// dataset is mounted anywhere besides its mount point, for instance in a container that outlived its engine
// (live-restore). A mount of the dataset does not show which ID it belongs to. So the unverified uses of a dataset end
// together, when it has no other mount. Only uses that the engine has unmounted (Use.Ended) can end before: see
// dropUnverifiedLocked.
func (v *Verifier) CheckIfDue(ctx context.Context) {
	now := v.Clock.Steady()
	v.mu.Lock()
	at, again := v.verifyAt, v.restartUntil
	v.mu.Unlock()
	if at == 0 || now < at {
		return
	}
	open := map[uuid.UUID]map[string]Use{}
	for _, id := range v.Uses.InUse() {
		if uses := v.Unverified(id); len(uses) > 0 {
			open[id] = uses
		}
	}
	var next time.Duration
	if len(open) > 0 {
		next = now + VerifyEvery
	}
	// A Mount of the engine that has ended may still be running, and may record a use later.
	if now < again && (next == 0 || again < next) {
		next = again
	}
	v.mu.Lock()
	if v.verifyAt == at { // an engine may have started meanwhile
		v.verifyAt = next
	}
	v.mu.Unlock()
	if len(open) == 0 {
		return
	}
	look, err := v.Holders.ScanMounts()
	if err != nil {
		v.Log.WithError(err).Warn("cannot check whether unverified uses have ended")
		return
	}
	for id, uses := range open {
		d, ok := v.SharedMounts.RecordOf(id)
		if !ok {
			continue
		}
		if err := v.DropUnverified(ctx, d, uses, len(v.Holders.Describe(ctx, look, d))); err != nil {
			v.LogOf(ctx, d).WithError(err).Warn("cannot remove uses that have ended")
		}
	}
}

// CheckEnded ends the unverified uses of a dataset that no process has mounted. Operations that need an unused dataset
// call it first, so that they do not wait for CheckIfDue.
//
// If all remaining uses are unverified, CheckEnded fails with ErrInUse, because the user may find no container. The
// error names the process that has the dataset mounted, or when to try again. The argument what names the work for the
// error message. If the look at the host fails, the uses stay. The dataset's lock is held.
func (v *Verifier) CheckEnded(ctx context.Context, d dataset.Dataset, what string) error {
	uses := v.Unverified(d.ID)
	if len(uses) == 0 {
		return nil
	}
	look, err := v.Holders.ScanMounts()
	if err != nil {
		return nil
	}
	held := v.Holders.Describe(ctx, look, d)
	if err := v.dropUnverifiedLocked(ctx, d, uses, len(held), RequestGrace); err != nil {
		return err
	}
	left, unmounted := v.Uses.Get(d.ID).IDs, true
	for id, c := range left {
		if _, unverified := uses[id]; !unverified {
			return nil
		}
		unmounted = unmounted && c.Ended
	}
	switch {
	case len(left) == 0:
		return nil
	case len(held) == 0:
		wait := max(v.endsFrom(left, RequestGrace)-v.Clock.Steady(), 0).Truncate(time.Second) + time.Second
		return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: the engine on node %s mounted it shortly before "+
			"drover or the engine started, and may be starting a container with it (try again in %s)",
			what, d.Volume, v.NodeName, wait)
	case !unmounted:
		return nil // those containers may be running
	}
	var ids []string
	for id := range left {
		ids = append(ids, ShortID(id))
	}
	slices.Sort(ids)
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: the engine on node %s has unmounted it "+
		"(%s), but %s",
		what, d.Volume, v.NodeName, strings.Join(ids, ", "), held[0])
}

// endsFrom returns the time from which unverified uses may end, by the steady clock: grace after their last Mount, and
// not while an engine that has just started may mount again.
func (v *Verifier) endsFrom(uses map[string]Use, grace time.Duration) (at time.Duration) {
	v.mu.Lock()
	restartUntil := v.restartUntil
	v.mu.Unlock()
	for id, c := range uses {
		if v.Engines.HasEnded(id, c.Generation) {
			at = max(at, restartUntil)
		} else {
			at = max(at, c.LastMount+grace)
		}
	}
	return at
}

// DropUnverified ends unverified uses of a dataset after a look at the host. looked are the uses that were unverified
// before the look, and holders is the number of mounts besides the mount point. It takes the dataset's lock. See
// dropUnverifiedLocked for which uses end.
func (v *Verifier) DropUnverified(ctx context.Context, d dataset.Dataset, looked map[string]Use,
	holders int) error {
	unlock, err := v.Locks.Lock(ctx, d.ID, "check of volume "+d.Volume)
	if err != nil {
		return err
	}
	defer unlock()
	return v.dropUnverifiedLocked(ctx, d, looked, holders, MountedGrace)
}

// dropUnverifiedLocked ends unverified uses of a dataset after a look at the host. looked are the uses that were
// unverified before the look, and holders is the number of mounts besides the mount point. A use that changed since the
// look stays.
//
// Uses that the engine has unmounted (Use.Ended) end one by one, as long as there are no more holders than the
// remaining uses can have (see Record.ExpectedMounts). Other uses end only if there are no holders, and only after a
// time in which the engine may mount again or start a container: see endsFrom. If no use is left, dropUnverifiedLocked
// unmounts the dataset. The dataset's lock is held.
func (v *Verifier) dropUnverifiedLocked(ctx context.Context, d dataset.Dataset, looked map[string]Use,
	holders int, grace time.Duration) error {
	now := v.Clock.Steady()
	over := func(id string, c Use) bool { return now >= v.endsFrom(map[string]Use{id: c}, grace) }
	r := v.Uses.Get(d.ID)
	n := len(r.IDs)
	for id, was := range looked {
		switch c, there := r.IDs[id]; {
		case !there || !reflect.DeepEqual(c, was):
		case c.Ended && holders <= r.ExpectedMounts(id), holders == 0 && over(id, c):
			delete(r.IDs, id)
		}
	}
	if len(r.IDs) == n {
		return nil
	}
	if err := v.Uses.Save(ctx, d, 0, r, nil); err != nil {
		return err
	}
	v.LogOf(ctx, d).WithField("count", n-len(r.IDs)).Info("removed uses that ended while the engine or drover was down")
	v.News.Changed(d.ID)
	if len(r.IDs) > 0 {
		return nil
	}
	return v.Unmounter.UnmountUnused(ctx, d)
}

// Activated is called when a process activates the plugin. If an engine that had mounted volumes has
// ended, its uses are unverified from now on. Safe for concurrent use.
func (v *Verifier) Activated(ctx context.Context) {
	ended, err := v.Engines.Activate(ctx, plugin.Caller(ctx))
	if err != nil {
		v.Log.WithError(err).Error("cannot record on disk that an engine has ended")
	}
	if ended {
		v.PostponeCheck()
	}
}

// Load reads the uses from disk. Uses of this boot are verified soon, because they may have ended while no agent ran.
func (v *Verifier) Load(ctx context.Context) error {
	some, err := v.Uses.Load(ctx)
	if some {
		v.verifyAt = v.Clock.Steady() + UnverifiedGrace
	}
	return err
}

// UnknownUse is recorded instead of the mount IDs that were lost with the agent's database.
const UnknownUse = "unknown"

// AssumeUse records a use of unknown origin for a mounted dataset whose uses were lost with the agent's database. The
// use counts from the start of the agent, and CheckIfDue ends it. The dataset's lock is held.
func (v *Verifier) AssumeUse(ctx context.Context, d dataset.Dataset) error {
	r := v.Uses.Get(d.ID)
	if len(r.IDs) > 0 {
		return nil // it was mounted meanwhile
	}
	r.Epoch = d.Epoch
	r.IDs[UnknownUse] = Use{Count: 1, Generation: v.Engines.Newest(), Since: v.started, Inherited: true,
		LastMount: v.startedSteady}
	v.ScheduleCheck(v.Clock.Steady() + UnverifiedGrace)
	return v.Uses.Save(ctx, d, 0, r, nil)
}

// EnsureUnused fails with ErrInUse if a dataset is in use on this host: by a recorded use, by a mount in any namespace,
// or by a process that has a file of it open. It unmounts a dataset without a use, and the guard forgets the dataset.
// The argument what names the work for the error message. The dataset's lock is held.
func (v *Verifier) EnsureUnused(ctx context.Context, d dataset.Dataset, what string) error {
	if err := v.CheckEnded(ctx, d, what); err != nil {
		return err
	}
	if r := v.Uses.Get(d.ID); len(r.IDs) > 0 {
		return v.InUseError(d, what, r)
	}
	err := v.Unmounter.UnmountAndRelease(ctx, d)
	if errors.Is(err, unix.ELOOP) {
		return nil // a link is in the place of the dataset: the pool refuses every other work, but not the trash
	}
	if errors.Is(err, dataset.ErrInUse) && d.State != dataset.StatePurging { // the agent repeats a purge by itself
		err = fmt.Errorf("cannot %s volume %s: %w; try again to %s it after that", what, d.Volume, err, what)
	}
	return err
}

// CheckUnmounted fails with ErrInUse while a dataset has a recorded use. It waits for the dataset's lock only
// if a look at the host may show that a use has ended.
func (v *Verifier) CheckUnmounted(ctx context.Context, d dataset.Dataset) error {
	r := v.Uses.Get(d.ID)
	if len(v.Unverified(d.ID)) > 0 {
		unlock, err := v.Locks.Lock(ctx, d.ID, "removal of volume "+d.Volume)
		if err != nil {
			return err
		}
		defer unlock()
		if err := v.CheckEnded(ctx, d, "remove"); err != nil {
			return err
		}
		r = v.Uses.Get(d.ID)
	}
	if len(r.IDs) > 0 {
		return v.InUseError(d, "remove", r)
	}
	return nil
}

// InUseError returns the ErrInUse that names who uses a dataset, and how to find those containers.
func (v *Verifier) InUseError(d dataset.Dataset, what string, r Record) error {
	who := "mounted"
	by := map[string]plugin.Tool{}
	spellings := v.Cache.SpellingsOf(d, v.NodeID)
	for id, use := range r.IDs {
		by[id] = use.ToolOf(id)
		for _, spelling := range use.Spellings() {
			if slices.Contains(spellings, spelling) {
				continue
			}
			spellings = append(spellings, spelling) // an alias that was dropped
		}
	}
	slices.Sort(spellings)
	if len(by) > 0 {
		who = MountedByText(by)
	}
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: it is %s on node %s (%s)",
		what, d.Volume, who, v.NodeName, HowToStop("stop its containers first", by, d.Volume, spellings))
}
