package control

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// candidate is a pool that a dataset could lie on, with what is known of it.
type candidate struct {
	dataset.Pool
	cordoned bool
	silent   bool                // nothing is heard of its node
	dropped  bool                // its node does not name it any more
	guarded  bool                // its node's guard answers
	anew     bool                // what comes is made anew there, file by file
	whole    bool                // what comes has its filesystem already
	status   *dataset.PoolStatus // nil: not heard of, and taken for good
}

// misfit says why a profile cannot be kept on a pool, whatever its state; ""
// when it can. What nothing on its host would mend comes first. Pure.
func misfit(c candidate, p dataset.Profile) string {
	mended := ""
	for _, l := range c.lacking(p) {
		if l.is && !l.mends {
			return l.why
		}
		if l.is && mended == "" {
			mended = l.why
		}
	}
	if why := misfence(c, p); why != "" {
		return why
	}
	return mended
}

// lack is what a pool may have not, and a profile wants.
type lack struct {
	is    bool
	why   string
	mends bool // something on its host would
}

// lacking is all that a pool may not have of what a profile wants. Pure.
func (c candidate) lacking(p dataset.Profile) []lack {
	can := c.Capabilities
	fs := p.Filesystem.Type
	size, inside, seal := c.lacks("sizes"), c.lacks(fs), c.lacks("encryption")
	return []lack{
		{p.Pool != "" && p.Pool != c.Name, "it is not pool " + p.Pool, false},
		{p.Backend != "" && p.Backend != c.Backend, "its backend is " + c.Backend + ", not " + p.Backend, false},
		{p.Size != 0 && !can.EnforcesSize, "it cannot enforce a size" + size, size != ""},
		{(p.Snapshots.Required || p.Snapshots.Schedule != "") && !can.InstantSnapshot, "it cannot take snapshots without copying", false},
		{p.Quiesce == dataset.QuiesceFreeze && !can.OwnFilesystem, "it cannot freeze one volume alone", false},
		{fs != "" && !(c.anew && p.Filesystem.Chosen) && !(c.whole && slices.Contains(c.Holds, fs)) && !slices.Contains(can.Filesystems, fs), "it has no filesystem " + fs + " inside volumes" + inside, inside != ""},
		{len(p.Filesystem.Mount) > 0 && !can.OwnFilesystem, "it has no mount options for one volume alone", false},
		{p.Access == dataset.AccessMany && !can.ManyHosts, "several hosts cannot have a volume of it mounted at once, as access many wants", false},
		{p.Encryption.Wanted() && !can.Encryption, "it cannot encrypt" + seal, seal != ""},
		{p.QoS.Limited() && !can.OwnDevice, "it has no block device for each volume, whose speed could be limited", false},
		{c.anew && p.Replicas.Count > 0 && !can.Delta, "it cannot tell replicas what changed", false},
		{p.QoS.Limited() && can.Limits == "", "its node cannot limit the speed of volumes (drover doctor there says why)", true},
		{p.QoS.Strict && can.Limits != dataset.LimitsStrict, "its node has control groups of version 1, which limit each container by itself from about a second after its start, and qos is strict", true},
		{p.Failover.Auto && !c.guarded, "its node has no guard, which failover auto needs (systemctl enable --now drover-guard there)", true},
	}
}

// Misfit says why no pool of a backend could keep a profile, on whatever host, as one can at best
// what is said; "" when one could. Pure.
func Misfit(backend string, best dataset.Capabilities, p dataset.Profile) string {
	c := candidate{Pool: dataset.Pool{Name: p.Pool, Backend: backend, Capabilities: best}, guarded: true}
	if best.OwnDevice {
		c.Capabilities.Limits = dataset.LimitsStrict
	}
	if best.ManyHosts {
		c.Share = uuid.Max // one of which it is not known which
	}
	return misfit(c, p)
}

// lacks says what a pool's host would need for something that it has not, with the command; "":
// nothing would do.
func (c candidate) lacks(what string) string {
	for _, m := range c.Missing {
		if rest, is := strings.CutPrefix(m, what); is && (strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, ":")) {
			return ": on its node " + m + ", and then a restart of drover"
		}
	}
	return ""
}

// less says that a pool has in all less than a size; "" when it has as much, or a volume has the
// size already. Of all volumes of a pool together their sizes may be more than it has. Pure.
func (c candidate) less(size, had dataset.Size) string {
	if size <= had || c.status == nil || c.status.Size <= 0 || size <= c.status.Size {
		return ""
	}
	return fmt.Sprintf("it has %s in all, less than %s", c.status.Size.Human(), size)
}

// away says why nothing new can be put on a pool that would fit; "" when it can.
func (c candidate) away() string {
	switch {
	case c.cordoned:
		return "its node is cordoned"
	case c.silent:
		return "its node is away"
	case c.dropped:
		return "its node has it no more"
	case c.status != nil && c.status.Held:
		return "it is held: " + c.status.Reason
	case c.status != nil && !c.status.Online:
		return "it is offline: " + c.status.Reason
	}
	return ""
}

// choose picks the first candidate that fits; otherwise the error gives each
// one's reason: ErrOffline when one would fit if it were not away, otherwise
// ErrUnsupported. Pure.
func choose(cands []candidate, o order) (candidate, error) {
	o.profile.Placement = "" // of what is new: what is there stays where it is, or goes where a person says
	sites := []site{{pools: cands}}
	if c, fits := first(sites, o); fits {
		return c, nil
	}
	return candidate{}, refuse(sites, o)
}

// candidates returns the pools of a node in the order in which it lists them.
func (s *Service) candidates(t *tx, node uuid.UUID) ([]candidate, error) {
	var n dataset.Node
	if ok, err := t.get(nodeKey(node), &n); err != nil || !ok {
		return nil, err
	}
	var cands []candidate
	for _, id := range n.Pools {
		var p dataset.Pool
		ok, err := t.peek(poolKey(id), &p)
		if err != nil {
			return nil, err
		}
		if ok && p.Node == n.ID { // not one that another node has adopted
			cands = append(cands, candidate{Pool: p, cordoned: n.Cordoned, dropped: slices.Contains(n.Dropped, id), guarded: s.seen.guarded(n.ID), status: s.seen.pool(id)})
		}
	}
	return cands, nil
}

// fits checks that a dataset, where it lies, can have a profile, or one that is made of it, when it
// had a size before.
func (s *Service) fits(t *tx, d dataset.Dataset, p dataset.Profile, had dataset.Size) error {
	pool, err := t.pool(d)
	if err != nil {
		return err
	}
	o := order{what: "volume " + d.Volume, profile: p, had: had}
	cands := []candidate{{Pool: pool, guarded: s.seen.guarded(pool.Node), status: s.seen.pool(pool.ID)}}
	if _, err = choose(cands, o); err != nil {
		return s.withOthers(t, err, []site{{pools: cands}}, o)
	}
	return nil
}

// unfit is why a dataset, where it lies, could not have a profile even if it were made anew there; nil when
// it could.
func (s *Service) unfit(t *tx, d dataset.Dataset, p dataset.Profile) error {
	if err := s.fits(t, d, p, p.Size); dataset.KindOf(err) == dataset.ErrUnsupported {
		return err
	}
	return nil
}

// tooLarge tells whether a dataset is larger than all of its pool already, as an older version made
// it, and returns that size, or 0: it may go to another that is too small as well.
func (s *Service) tooLarge(d dataset.Dataset) dataset.Size {
	if st := s.seen.pool(d.Pool); st != nil && st.Size > 0 && d.Size > st.Size {
		return d.Size
	}
	return 0
}

// Pools lists all pools of all nodes, by the names of the nodes and then their own: those on record, and
// those that nodes are configured with and could not make, which have no UUID.
func (s *Service) Pools(ctx context.Context) ([]api.Pool, error) {
	t := newTx(ctx, s.store)
	list, err := listAll[dataset.Pool](t, poolsPrefix)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(list))
	for i, p := range list {
		keys[i] = nodeKey(p.Node)
	}
	if err := t.foresee(keys); err != nil {
		return nil, err
	}
	out := make([]api.Pool, 0, len(list))
	for _, p := range list {
		name, err := t.nodeName(p.Node)
		if err != nil {
			return nil, err
		}
		out = append(out, api.Pool{Pool: p, NodeName: name, Status: s.seen.pool(p.ID)})
	}
	for _, u := range s.seen.unmadePools() {
		i := slices.IndexFunc(out, func(p api.Pool) bool { return p.Node == u.Node && p.Name == u.Name })
		if i < 0 {
			out = append(out, u)
		} else if out[i].Status == nil { // on record, and not found where it is configured
			out[i].Status = u.Status
		}
	}
	slices.SortStableFunc(out, func(x, y api.Pool) int {
		return cmp.Or(strings.Compare(x.NodeName, y.NodeName), strings.Compare(x.Name, y.Name), bytes.Compare(x.ID[:], y.ID[:]))
	})
	return out, nil
}

// nodeName is a node's name, or its UUID when it is not known.
func (t *tx) nodeName(id uuid.UUID) (string, error) {
	var n dataset.Node
	ok, err := t.get(nodeKey(id), &n)
	if err == nil && !ok {
		return id.String(), nil
	}
	return n.Name, err
}

// listAll reads every object under a prefix that holds few.
func listAll[T any](t *tx, prefix string) ([]T, error) {
	entries, err := t.list(prefix, "", 0)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(entries))
	for i, e := range entries {
		if err := decode(e.Key, e.Value, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
