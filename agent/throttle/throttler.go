// Package throttle limits how fast mounted volumes are read and written, through control groups (cgroups(7)). In this
// package, "version 1" and "version 2" are versions of control groups.
//
// Throttler owns the rules: it sets a rule when a dataset is mounted, extends it to the control groups of new
// containers, suspends it while the agent flushes the dataset, and removes it after the unmount. A rule outlives both
// the volume and its device, so each rule is recorded on disk before it is set: under limits/ in the agent's database.
//
// Throttler.mu protects the set of limited datasets, and the reasons why limits are missing. Limited.Mu protects the
// rules of one dataset. The order is Limited.Mu, then Throttler.mu. GroupScanner belongs to the goroutine of Run. The
// caller of Limit, Suspend and End holds the dataset's lock.
//
// Limit sets a limit, Suspend suspends it for a flush, and End removes it. Check adds findings about limits that are
// not in effect, and Problems describes them for one dataset. Where to change what: which control groups get a rule is
// in controller.go and run.go, and when a limit is suspended in suspend.go. The texts of findings are in
// control/condition. How a rule is written to the kernel is in package internal/linux/iolimit, and which limits a
// profile can have in package profiles.
package throttle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/iolimit"
)

// Cgroups says which control groups limit the speed of volumes.
type Cgroups struct {
	Hierarchy iolimit.Hierarchy // if zero, the hierarchy of this host is used
	// Parents are, with version 2, the groups below which the engine puts containers. If empty, the defaults of
	// the engines are used.
	Parents []string
}

// Throttler sets the speed limits of the mounted volumes. The kernel keeps a rule for a control group and a device
// number even after the volume and its device were removed. Each rule is therefore recorded (limits/<dataset>) before
// it is set, and removed after the unmount. If a rule cannot be removed, it stays recorded, and the next start tries
// again.
type Throttler struct {
	*host.Host
	*Controller

	// Uses and Fences are set before the agent starts.
	Uses   Uses
	Fences Fences

	wake        chan struct{}
	mu          sync.Mutex
	Limited     map[uuid.UUID]*Limited
	failures    map[uuid.UUID]error // why the limits of mounted datasets differ from their profiles; retried by Run
	unavailable string              // why enableBaseGroups fails; "" if it does not
}

// Limited is one mounted dataset whose speed is limited, or whose limit is suspended.
type Limited struct {
	id             uuid.UUID
	Mu             sync.Mutex // held while its rules change
	Record         LimitRecord
	SuspendedUntil time.Duration // end of the suspension of its rules, by the steady clock; 0 if there is none
	ended          bool          // its limit has ended, and it is no longer in Throttler.Limited
	// withoutLimit are the groups that use the dataset and cannot be limited, because the controller io is not enabled
	// for them.
	withoutLimit []string
}

// LimitRecord is the record of the rules that were set for a device. A record from an earlier boot does not count.
type LimitRecord struct {
	Boot   string         `json:"boot"`
	Device iolimit.Device `json:"device"`
	Limits iolimit.Limits `json:"limits"`
	// Earlier lists earlier rules that some groups may still have.
	Earlier []iolimit.Limits `json:"before,omitempty"`
	Groups  []string         `json:"groups"`
	// Suspended is the time at which this agent suspended the rules for a flush. It is zero if the rules are not
	// suspended.
	Suspended time.Time `json:"lifted,omitzero"`
}

// LimitsOf translates the QoS of a profile.
func LimitsOf(q dataset.QoS) iolimit.Limits {
	return iolimit.Limits{
		ReadBPS:   int64(q.ReadBPS),
		WriteBPS:  int64(q.WriteBPS),
		ReadIOPS:  q.ReadIOPS,
		WriteIOPS: q.WriteIOPS,
	}
}

// Uses knows which datasets are in use on this node.
type Uses interface {
	InUse() []uuid.UUID // the datasets that have mount IDs
}

// Fences knows which datasets the guard fences.
type Fences interface {
	// FencingCheck returns a function that reports whether the guard fences a dataset or is about to. The function asks
	// the guard at most once.
	FencingCheck() (isFencing func(id uuid.UUID) (bool, error))
}

func (l *Throttler) log(d dataset.Dataset) *logrus.Entry {
	return l.Log.WithFields(logrus.Fields{"volume": d.Volume, "dataset": d.ID})
}

// New returns a Throttler without any limit. It finds out which limits this host can set.
func New(h *host.Host, cfg Cgroups) *Throttler {
	return &Throttler{
		Host: h, Controller: newController(cfg), wake: make(chan struct{}, 1),
		Limited: map[uuid.UUID]*Limited{}, failures: map[uuid.UUID]error{},
	}
}

// Get returns the limit of a mounted dataset, or nil if it has none.
func (l *Throttler) Get(id uuid.UUID) *Limited {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Limited[id]
}

// All returns the limits of all mounted datasets.
func (l *Throttler) All() []*Limited {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.Limited))
}

func (l *Throttler) wakeRun() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Limit sets the limits of the profile for a dataset that was just mounted, before the mount is reported to the caller
// of the mount. It fails with ErrUnsupported if this host cannot enforce them. The dataset's lock is held. Idempotent.
func (l *Throttler) Limit(ctx context.Context, d dataset.Dataset) error {
	e := l.Get(d.ID)
	if !d.Profile.QoS.Limited() {
		if e != nil {
			return l.removeLimit(ctx, e)
		}
		return nil
	}
	switch kind := l.Kind(); {
	case kind == "":
		return dataset.Errorf(dataset.ErrUnsupported, "cannot throttle it on this host: %w", l.problem())
	case d.Profile.QoS.Strict && kind != dataset.LimitsStrict:
		return dataset.Errorf(dataset.ErrUnsupported,
			"its profile has qos strict, and this host has control groups of version 1: %s (boot it with version "+
				"2, or drover volume set-profile)", noteV1)
	}
	dev, own, err := iolimit.DeviceOf(l.MountPath(d.ID))
	if err != nil {
		return err
	}
	if !own {
		return dataset.Errorf(dataset.ErrUnsupported, "cannot throttle it: it has no separate block device")
	}
	groups, err := l.enableBaseGroups()
	if err != nil {
		return err
	}
	if e != nil && e.device() != dev { // it was unmounted without Drover and mounted again
		if err := l.removeRules(ctx, e); err != nil {
			l.log(d).WithError(err).Error("cannot remove its throttling limits")
		}
		e = nil
	}
	if e == nil {
		e = &Limited{id: d.ID}
	}
	e.Mu.Lock()
	defer e.Mu.Unlock()
	l.put(e) // before any rule is set, so that rules that were set in part are removed as well
	rec := e.Record
	rec.Boot, rec.Device, rec.Limits, rec.Groups = l.Boot, dev, LimitsOf(d.Profile.QoS), Union(groups, rec.Groups)
	if err := l.SetRules(ctx, e, rec); err != nil {
		return err
	}
	l.wakeRun()
	return nil
}

func (l *Throttler) put(e *Limited) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.Limited[e.id] = e
}

// noteV1 tells the operator how version 1 limits volumes.
const noteV1 = "v1: per container, from about a second after its start"

// SetRules records rules and sets them in their groups, unless they are suspended or the dataset is fenced. The caller
// holds e.Mu.
func (l *Throttler) SetRules(ctx context.Context, e *Limited, rec LimitRecord) error {
	if was := e.Record.Limits; was != rec.Limits && was != (iolimit.Limits{}) && !slices.Contains(rec.Earlier, was) {
		rec.Earlier = append(slices.Clip(rec.Earlier), was)
	}
	if err := l.DB.Put(ctx, map[string]any{"limits/" + e.id.String(): rec}); err != nil {
		return err
	}
	e.Record = rec
	if e.SuspendedUntil != 0 {
		return nil
	}
	return l.apply(e, l.Fences.FencingCheck())
}

// apply sets the recorded rules in their groups. If the dataset is fenced, apply sets nothing, and Run sets the rules
// when the fence ends. isFencing asks the guard. The caller holds e.Mu, except applyAll at the start.
func (l *Throttler) apply(e *Limited, isFencing func(uuid.UUID) (bool, error)) error {
	if fencing, err := isFencing(e.id); err != nil || fencing {
		return err
	}
	err := l.set(e.Record, e.Record.Groups)
	if err == nil {
		e.Record.Earlier = nil
	}
	return err
}

// removeLimit removes the limits of a mounted dataset. It fails if the dataset is fenced, because the guard has
// suspended the rules and would restore them later.
func (l *Throttler) removeLimit(ctx context.Context, e *Limited) error {
	if fencing, err := l.Fences.FencingCheck()(e.id); err != nil || fencing {
		return errors.Join(err, dataset.Errorf(dataset.ErrPending,
			"its limit is removed once it is no longer fenced"))
	}
	e.Mu.Lock()
	if e.SuspendedUntil == 0 {
		if err := l.clear(e.Record); err != nil {
			e.Mu.Unlock()
			return err
		}
	}
	e.Mu.Unlock()
	return l.removeRules(ctx, e)
}

// Union returns the elements of a and b, sorted and without duplicates.
func Union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
