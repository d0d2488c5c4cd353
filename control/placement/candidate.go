// Package placement decides on which pools datasets and their copies are put.
//
// A Site is a node with its pools, a Candidate is a pool with its status, and a Requirement lists the needs of a
// dataset. The rules for them are pure functions. Placer reads the sites in the transaction of a decision, and applies
// the rules. CopyKeeper decides which copies nodes keep: replicas that are kept fresh, copies that moves left, and
// superseded ones.
//
// The package keeps no state. It reads the store, reports.Latest and membership.Members. It changes the records of
// copies, of lost copies (Dataset.Losses) and of the snapshots in them, and what reports.Latest has of a copy.
//
// Another reason why a pool cannot keep a profile belongs in Candidate.shortcomings. Another state of a node in which
// its pools get nothing, such as cordoned, gets a field of Candidate, and a case in WhyOffline. Another rule for the
// choice of a node belongs in WhyUnfit, where each Site is judged by itself. Which records a choice reads, and on which
// of them the decision depends, is in placer.go. What an error says if no pool fits is in refusals.go. Which node gets
// a replica, and which copies are surplus, is decided in keeper.go, and when a copy may be destroyed in copies.go.
package placement

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/selector"
)

// Candidate is a pool in which a dataset could be stored, with its state and that of its node as control knows them.
type Candidate struct {
	dataset.Pool
	Cordoned       bool
	Unreachable    bool                // its node has not reported for too long
	Unreported     bool                // its node no longer reports it
	Guarded        bool                // the guard of its node answers
	FileCopy       bool                // the data is copied to the pool file by file
	WithFilesystem bool                // the data is copied with its filesystem
	Status         *dataset.PoolStatus // nil if its node has not reported it yet: the pool then counts as online
}

// WhyUnsuitable returns why a pool cannot keep a profile, whether the pool is online or not; "" if it can. If there are
// several reasons, it returns one that no change on the host of the pool can remove, if there is such a reason.
func WhyUnsuitable(c Candidate, p dataset.Profile) string {
	fixable := ""
	for _, l := range c.shortcomings(p) {
		if l.applies && !l.fixable {
			return l.why
		}
		if l.applies && fixable == "" {
			fixable = l.why
		}
	}
	if why := WhyFenceUnsuitable(c, p); why != "" {
		return why
	}
	return fixable
}

// Shortcoming is a reason why a pool may be unable to keep a profile.
type Shortcoming struct {
	applies bool // the pool has the shortcoming
	why     string
	fixable bool // a change on the host of the pool would remove the shortcoming
}

// shortcomings returns all shortcomings that a pool can have for a profile. Each of them says whether this pool has
// it.
func (c Candidate) shortcomings(p dataset.Profile) []Shortcoming {
	can := c.Capabilities
	fs := p.Filesystem.Type
	size, inside, seal := c.missingFeature("sizes"), c.missingFeature(fs), c.missingFeature("encryption")
	return []Shortcoming{
		{p.Pool != "" && p.Pool != c.Name, "it is not pool " + p.Pool, false},
		{p.Backend != "" && p.Backend != c.Backend, "its backend is " + c.Backend + ", not " + p.Backend, false},
		{p.Size != 0 && !can.EnforcesSize, "it cannot enforce a size" + size, size != ""},
		{(p.Snapshots.Required || p.Snapshots.Schedule != "") && !can.InstantSnapshot,
			"it cannot take snapshots without copying", false},
		{p.Backup.To != "" && !can.InstantSnapshot,
			"it cannot clone volumes without copying, as scheduled backups require", false},
		{fs != "" && !(c.FileCopy && p.Filesystem.Chosen) &&
			!(c.WithFilesystem && slices.Contains(c.AcceptedFilesystems, fs)) &&
			!slices.Contains(can.Filesystems, fs), "it has no filesystem " + fs + " inside volumes" + inside,
			inside != ""},
		{len(p.Filesystem.Mount) > 0 && !can.OwnFilesystem, "it has no mount options for a single volume", false},
		{p.Access == dataset.AccessMany && !can.ManyHosts,
			"it cannot mount a volume on several hosts, as access many requires", false},
		{p.Encryption.Wanted() && !can.Encryption, "it cannot encrypt" + seal, seal != ""},
		{p.QoS.Limited() && !can.OwnDevice, "it has no block device for each volume, so it cannot throttle",
			false},
		{c.FileCopy && p.Replicas.Count > 0 && !can.Delta, "it cannot send differences to replicas", false},
		{p.QoS.Limited() && can.Limits == "",
			"its node cannot throttle volumes (drover doctor -v there shows why)", true},
		{p.QoS.Strict && can.Limits != dataset.LimitsStrict,
			"its node has control groups of version 1, which throttle each container separately from about a " +
				"second after its start, and qos is strict", true},
		{p.Failover.Auto && !c.Guarded, "its node has no guard, which failover auto requires (systemctl enable " +
			"--now drover-guard there)", true},
	}
}

// missingFeature returns what the pool's host would need for a missing capability, with the command for it; "" if
// nothing on the host would help.
func (c Candidate) missingFeature(what string) string {
	for _, m := range c.MissingFeatures {
		if rest, is := strings.CutPrefix(m, what); is &&
			(strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, ":")) {
			return ": on its node " + m + ", and then a restart of drover"
		}
	}
	return ""
}

// WhyTooSmall returns why a pool is too small for a volume that grows from size had to size; "" if it is large enough.
// For a new volume, had is 0. A size of 0 means the default size of the pool.
//
// A pool is too small if the whole pool is smaller than size, or if its policy for overcommit does not allow the
// growth. Without a policy, the sizes of all volumes of a pool may add up to more than the size of the pool. If size is
// not larger than had, every pool is large enough.
func (c Candidate) WhyTooSmall(size, had dataset.Size) string {
	if c.Status == nil {
		return ""
	}
	size = cmp.Or(size, c.Status.DefaultSize)
	switch {
	case size <= had || c.Status.Size <= 0:
		return ""
	case size > c.Status.Size:
		return fmt.Sprintf("it has %s in all, less than %s", c.Status.Size.Human(), size)
	}
	return c.Status.WhyOvercommitted(size - had)
}

// WhyOffline returns why nothing can be put on the pool at present; "" if something can.
func (c Candidate) WhyOffline() string {
	switch {
	case c.Cordoned:
		return "its node is cordoned"
	case c.Unreachable:
		return "its node is unreachable"
	case c.Unreported:
		return "its node no longer has it"
	case c.Status != nil && c.Status.Quarantined:
		return "it is held: " + c.Status.Reason
	case c.Status != nil && !c.Status.Online:
		return "it is offline: " + c.Status.Reason
	}
	return ""
}

// Site is a node that a dataset could be put on, with its pools in the order in which the node lists them.
type Site struct {
	dataset.Node
	Facts *dataset.Facts // nil if the node has not reported them yet
	Pools []Candidate
}

// Requirement lists the needs of a dataset.
type Requirement struct {
	ID            uuid.UUID // of the dataset
	Subject       string    // for errors, such as "volume db"
	Profile       dataset.Profile
	Placement     selector.Expr // the placement expression of the profile
	Requester     uuid.UUID     // the node that requests it; uuid.Nil if none does
	RequesterOnly bool          // only the requesting node is suitable, because the source is there
	Node          uuid.UUID     // the only suitable node, as the user chose it; uuid.Nil if every node is
	NameNode      bool          // errors name the node even if there is only one
	CurrentSize   dataset.Size  // size that the dataset already has; every pool counts as large enough for it
	// Size is the size of an existing dataset that is copied to the pool; 0 for a new one. It is used if the profile
	// has no size.
	Size      dataset.Size
	Temporary bool // it is removed soon, so the overcommit of pools does not matter
}

// sizeOn returns the size that the dataset will have on a pool; 0 if the pool chooses it.
func (o Requirement) sizeOn(c Candidate) dataset.Size {
	if c.FileCopy {
		return o.Profile.Size
	}
	return cmp.Or(o.Profile.Size, o.Size)
}

// WhyUnfit returns why a pool of the site does not meet a requirement; "" if it does. ifOnline is true if the pool
// could meet the requirement once it and its node are online again, or once its facts are known.
func (st Site) WhyUnfit(c Candidate, o Requirement) (why string, ifOnline bool) {
	if why := WhyUnsuitable(c, o.Profile); why != "" {
		if c.IsUnopened() && IsRequested(c, o.Profile) {
			return c.WhyOffline(), true
		}
		return why, false
	}
	had := o.CurrentSize
	if o.Temporary && c.Status != nil {
		had = c.Status.Size
	}
	if why := c.WhyTooSmall(o.sizeOn(c), had); why != "" {
		return why, false
	}
	if o.Profile.Placement != "" {
		if st.Facts == nil {
			return "its facts are unknown yet", true
		}
		pool, known := st.Facts.Pool(c.ID)
		if !known && o.Placement.OfPool() {
			return "its facts are unknown yet", true
		}
		if why := o.Placement.Mismatch(selector.Env{Node: st.Node, Facts: *st.Facts, Pool: pool}); why != "" {
			return why, false
		}
	}
	why = c.WhyOffline()
	return why, why != ""
}

// FirstFit returns the first pool of the sites that meets the requirement.
func FirstFit(sites []Site, o Requirement) (Candidate, bool) {
	for _, st := range sites {
		for _, c := range st.Pools {
			if why, _ := st.WhyUnfit(c, o); why == "" {
				return c, true
			}
		}
	}
	return Candidate{}, false
}

// Choose returns the first candidate that fits, without regard to the placement expression of the profile. If none
// fits, it fails with the reason for each of them. The error is dataset.ErrOffline if a candidate would fit once it is
// online again, and otherwise dataset.ErrUnsupported.
func Choose(cands []Candidate, o Requirement) (Candidate, error) {
	// The expression applies only to new datasets. An operator chooses where an existing dataset moves.
	o.Profile.Placement = ""
	sites := []Site{{Pools: cands}}
	if c, fits := FirstFit(sites, o); fits {
		return c, nil
	}
	return Candidate{}, NoPoolError(sites, o)
}

// IsUnopened reports whether the pool has not been opened since its node started. Its capabilities are not known
// then. An error must say that such a pool is offline, and not that it lacks every capability.
func (c Candidate) IsUnopened() bool {
	return c.Status != nil && !c.Status.Online && reflect.ValueOf(c.Capabilities).IsZero()
}

// IsRequested reports whether the pool has the name and the backend that the profile asks for, if it asks for any.
func IsRequested(c Candidate, p dataset.Profile) bool {
	return (p.Pool == "" || p.Pool == c.Name) && (p.Backend == "" || p.Backend == c.Backend)
}

// FilterByName removes all pools but the one with the given name from the sites. An error about the sites then gives
// the reasons only for that pool. If no site has such a pool, the function returns all sites. head is the beginning of
// the error.
func FilterByName(sites []Site, name string) (head string, of []Site) {
	for _, st := range sites {
		its := st
		its.Pools = slices.DeleteFunc(slices.Clone(st.Pools), func(c Candidate) bool { return c.Name != name })
		if len(its.Pools) > 0 {
			of = append(of, its)
		}
	}
	if len(of) == 0 { // the error gives the reason of each pool
		return "no pool", sites
	}
	return "no pool " + name, of
}

// QualifiedName returns the name of the pool with that of its node, for errors about several nodes.
func (c Candidate) QualifiedName(node string) string { return c.Name + " of node " + node }

// The weights of the properties in which two pools can be alike. With LikeKind, one pool can receive snapshots of the
// other.
const (
	likeName = 1
	LikeKind = 2
)

// Likeness returns how similar two pools are, as a sum of weights. If it is at least LikeKind, a dataset moves with its
// filesystem and snapshots.
func Likeness(from, to dataset.Pool) (n int) {
	if from.Backend == to.Backend && from.Capabilities.Delta && to.Capabilities.Delta {
		n += LikeKind
	}
	if from.Name == to.Name {
		n += likeName
	}
	return n
}

// ReceivingFrom returns the candidate with WithFilesystem or FileCopy set according to how it would receive data from
// another pool.
func (c Candidate) ReceivingFrom(from dataset.Pool) Candidate {
	c.WithFilesystem = Likeness(from, c.Pool) >= LikeKind
	c.FileCopy = !c.WithFilesystem && !OnSameShare(from, c.Pool)
	return c
}

// OnSameShare reports whether two pools are on the same share, so that each sees the data of the other.
func OnSameShare(x, y dataset.Pool) bool { return x.Share != uuid.Nil && x.Share == y.Share }

// OtherPools returns the candidates without the pool that holds the data. If the target node has adopted that pool, a
// copy into the pool would overwrite the source of the copy. If no candidate remains, why says so.
func OtherPools(cands []Candidate, from dataset.Pool, target dataset.Node) (others []Candidate, why string) {
	others = slices.DeleteFunc(slices.Clone(cands), func(c Candidate) bool { return c.ID == from.ID })
	could := func(c Candidate) bool { return from.Share == uuid.Nil || OnSameShare(from, c.Pool) }
	if len(others) < len(cands) && !slices.ContainsFunc(others, could) {
		why = "pool " + from.Name + ", which node " + target.Name +
			" now has, is the pool that already has the data (drover pool adopt PATH there makes it its home)"
	}
	return others, why
}

// WhyFenceUnsuitable returns why a dataset with failover auto cannot be on a share with the fence of its profile; ""
// if it can. The fence must be a fence command, because only the storage server or a power switch can stop another
// host from writing to a share.
func WhyFenceUnsuitable(c Candidate, p dataset.Profile) string {
	if p.Failover.Auto && c.Share != uuid.Nil && p.Failover.Fence.Kind != dataset.FenceExec {
		return "it is on a share, where failover auto requires a fence command that excludes the last home " +
			"(fence: {exec: [PROGRAM]})"
	}
	return ""
}
