package control

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A store that went back is brought up to date from what agents hold. Somebody asks: that
// is on record, so that the agents of all replicas hear of it; each tells every replica
// what it holds, which is stored nowhere. What differs is shown, and mended when a person
// confirms what was seen: one transaction a dataset, each of which finds out anew what is
// to be done, so that one that was cut short goes on when it is asked for again. The last
// one ends the halt.

// gathering is what nodes told for a recovery.
type gathering struct {
	mu    sync.Mutex
	of    uuid.UUID
	began time.Duration // by the service's steady clock
	told  map[uuid.UUID]api.Holdings
	news  chan struct{}
}

// gatheredFor is how long a person has to confirm what differs. It is kept in memory.
const gatheredFor = time.Hour

func (g *gathering) begin(id uuid.UUID, now time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.of, g.began, g.told, g.news = id, now, map[uuid.UUID]api.Holdings{}, make(chan struct{}, 1)
}

// expire forgets what was told for a recovery that was looked at, and not confirmed in time.
func (g *gathering) expire(now time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now-g.began >= gatheredFor {
		g.of, g.told = uuid.Nil, nil
	}
}

func (g *gathering) put(node uuid.UUID, h api.Holdings) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of != h.Recovery || g.told == nil {
		return // another replica asked
	}
	g.told[node] = h
	select {
	case g.news <- struct{}{}:
	default:
	}
}

// end forgets what was told for a recovery, which is over.
func (g *gathering) end(id uuid.UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.of == id {
		g.of, g.told = uuid.Nil, nil
	}
}

// now returns what was told so far, and what is rung with the next.
func (g *gathering) now() (of uuid.UUID, told map[uuid.UUID]api.Holdings, news <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	told = make(map[uuid.UUID]api.Holdings, len(g.told))
	for node, h := range g.told {
		told[node] = h
	}
	return g.of, told, g.news
}

// Hold takes in what a node holds, for a recovery that this service was asked for. Again:
// it takes the place of what was said. ErrStale for an agent that is not the node's newest.
// ErrInvalid for more than can be.
func (s *Service) Hold(ctx context.Context, node uuid.UUID, h api.Holdings) error {
	if err := checkHoldings(node.String(), h); err != nil {
		return err
	}
	if _, err := newTx(ctx, s.store).fresh(node, h.Incarnation); err != nil {
		return err
	}
	s.gathering.put(node, h)
	return nil
}

// Gathers fails with ErrConflict unless this service takes in what nodes hold.
func (s *Service) Gathers() error {
	s.gathering.mu.Lock()
	defer s.gathering.mu.Unlock()
	if s.gathering.told == nil {
		return dataset.Errorf(dataset.ErrConflict,
			"this control replica was not asked for a recovery of the store, or it is over: it takes nobody's holdings")
	}
	return nil
}

// recovering is what a node is to know of the last recovery; nil: there was none.
func (t *tx) recovering(node uuid.UUID) (*api.Recovering, error) {
	var rec record.Recovery
	there, err := t.get(record.RecoveryKey, &rec)
	if err != nil || !there {
		return nil, err
	}
	return &api.Recovering{ID: rec.ID, Done: rec.Done, Heard: slices.Contains(rec.Heard, node)}, nil
}

// gatherTime is how long nodes that are alive are waited for.
const (
	gatherTime = 30 * time.Second
	gatherLook = time.Second
)

// Recover says by what a store that went back differs from what agents hold; with the
// digest of that, it mends it. Cut short it is asked for again. ErrUnsupported where the
// store is of one host; ErrConflict when what was confirmed is not what is there now, or
// takes a person's word; ErrInvalid for a node that is not on record.
func (s *Service) Recover(ctx context.Context, r api.Recover) (out api.Recovery, err error) {
	if !s.Shared {
		return out, dataset.Errorf(dataset.ErrUnsupported,
			"the store is of this host alone (drover store rebuild brings it up to date)")
	}
	var h record.Halt
	if there, err := newTx(ctx, s.store).peek(record.HaltedKey, &h); err != nil || !there {
		return api.Recovery{Heard: []string{}, Silent: []string{}, Different: []api.Differs{}}, err
	}
	if r.Confirm == "" {
		err = s.gather(ctx)
	}
	if err != nil {
		return out, err
	}
	c, err := s.compare(ctx, r.Fenced)
	if err != nil {
		return out, err
	}
	c.out.Halted = h.Err().Error()
	if r.Confirm == "" {
		return c.out, nil
	}
	if r.Confirm != c.out.Digest {
		return out, dataset.Errorf(dataset.ErrConflict,
			"recover: what differs is another than was confirmed: look again (drover store recover)")
	}
	if err := c.mend(ctx); err != nil {
		return out, err
	}
	c.out.Done = true
	return c.out, nil
}

// gather asks all agents what they hold, and waits for those that are alive.
func (s *Service) gather(ctx context.Context) error {
	id := uuid.New()
	s.gathering.begin(id, s.Clock.Steady())
	if _, err := s.update(ctx, func(t *tx) error {
		if _, err := t.get(record.RecoveryKey, &record.Recovery{}); err != nil {
			return err
		}
		t.all = true
		return t.put(record.RecoveryKey, record.Recovery{ID: id})
	}); err != nil {
		return err
	}
	timeout := s.Clock.After(gatherTime)
	for {
		_, told, news := s.gathering.now()
		live, err := s.living(newTx(ctx, s.store))
		if err != nil {
			return err
		}
		missing := 0
		for node := range live {
			if _, heard := told[node]; !heard {
				missing++
			}
		}
		if missing == 0 {
			return nil
		}
		select {
		case <-news:
		case <-s.Clock.After(gatherLook): // somebody may be alive no more
		case <-timeout:
			return nil
		case <-s.quit:
			return stopping()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// comparison is by what the store differs from what agents hold.
type comparison struct {
	s     *Service
	id    uuid.UUID
	roll  roll
	clock uint64 // the highest that any of them has heard of
	all   []judged
	out   api.Recovery
}

// judged is one dataset that differs.
type judged struct {
	*account
	verdict
	lacks, spare []dataset.Snapshot // on record, of those that its home has or has not
}

// compare holds the store against what was told.
func (s *Service) compare(ctx context.Context, fenced []string) (*comparison, error) {
	t := newTx(ctx, s.store)
	var rec record.Recovery
	if _, err := t.peek(record.RecoveryKey, &rec); err != nil {
		return nil, err
	}
	of, told, _ := s.gathering.now()
	if of == uuid.Nil || rec.ID != of || rec.Done {
		return nil, dataset.Errorf(dataset.ErrConflict,
			"recover: another replica was asked meanwhile, or nothing was confirmed: look again (drover store recover)")
	}
	c := &comparison{
		s:    s,
		id:   of,
		roll: roll{heard: map[uuid.UUID]bool{}, fenced: map[uuid.UUID]bool{}, pools: map[uuid.UUID]bool{}},
	}
	for node, h := range told {
		c.roll.heard[node], c.clock = true, max(c.clock, h.Clock)
		for _, p := range h.Pools {
			c.roll.pools[p] = true
		}
	}
	for _, ref := range fenced {
		n, err := t.nodeNamed(ref)
		if err != nil {
			return nil, err
		}
		c.roll.fenced[n.ID] = true
	}
	if err := c.noneLives(t); err != nil {
		return nil, err
	}
	if err := c.callRoll(t); err != nil {
		return nil, err
	}
	accounts, err := accountsOf(t, told)
	if err != nil {
		return nil, err
	}
	for _, a := range accounts {
		if err := c.look(t, a); err != nil {
			return nil, err
		}
	}
	return c, c.sign(t)
}

// callRoll names who was heard and who was not.
func (c *comparison) callRoll(t *tx) error {
	nodes, err := listAll[dataset.Node](t, record.NodesPrefix)
	c.out.Heard, c.out.Silent, c.out.Different = []string{}, []string{}, []api.Differs{}
	for _, n := range nodes {
		if c.roll.heard[n.ID] {
			c.out.Heard = append(c.out.Heard, n.Name)
		} else {
			c.out.Silent = append(c.out.Silent, n.Name)
			c.roll.silent = c.roll.silent || !c.roll.fenced[n.ID]
		}
	}
	slices.Sort(c.out.Heard)
	slices.Sort(c.out.Silent)
	return err
}

// look judges one dataset.
func (c *comparison) look(t *tx, a *account) error {
	j := judged{account: a, verdict: a.judge(c.roll)}
	if j.is.ID == uuid.Nil {
		return nil
	}
	if j.from != nil && j.from.lies && j.action != "disputed" {
		if err := j.lookAtSnapshots(t); err != nil {
			return err
		}
		if j.action == "" && len(j.lacks)+len(j.spare) > 0 {
			j.action = "snapshots"
		}
	}
	if j.action != "" {
		c.all = append(c.all, j)
	}
	return nil
}

// lookAtSnapshots holds those on record against those that lie at home.
func (j *judged) lookAtSnapshots(t *tx) error {
	onRecord, err := listAll[dataset.Snapshot](t, record.SnapshotPrefix(j.id))
	if err != nil {
		return err
	}
	has := func(list []dataset.Snapshot, id uuid.UUID) bool {
		return slices.ContainsFunc(list, func(s dataset.Snapshot) bool { return s.ID == id })
	}
	for _, s := range j.from.Snapshots {
		if !has(onRecord, s.ID) {
			j.lacks = append(j.lacks, s)
		}
	}
	for _, s := range onRecord {
		if !has(j.from.Snapshots, s.ID) {
			j.spare = append(j.spare, s)
		}
	}
	return nil
}

// sign puts the differences into words, in the order in which they are mended, and names
// them all by a digest.
func (c *comparison) sign(t *tx) error {
	slices.SortFunc(c.all, func(x, y judged) int {
		return cmp.Or(cmp.Compare(x.turn(), y.turn()), y.is.Created.Compare(x.is.Created),
			cmp.Compare(x.id.String(), y.id.String()))
	})
	for _, j := range c.all {
		d, err := j.words(t)
		if err != nil {
			return err
		}
		c.out.Different = append(c.out.Different, d)
	}
	text, err := json.Marshal([]any{c.id, c.out.Heard, c.out.Silent, c.out.Different, c.roll.fenced})
	sum := sha256.Sum256(text)
	c.out.Digest = hex.EncodeToString(sum[:8])
	return err
}

// turn has what gives up a name come before what may take it; and of two that nobody knew
// of the newer one, which has the name.
func (j *judged) turn() int {
	switch {
	case j.action == "forgotten":
		return 0
	case j.stored != nil && j.is.State != dataset.StateReady:
		return 1
	case j.stored != nil:
		return 2
	}
	return 3
}

func (j *judged) words(t *tx) (api.Differs, error) {
	d := api.Differs{Dataset: j.id, Volume: j.is.Volume, Action: j.action, Note: j.note}
	at := func(d dataset.Dataset) (string, error) {
		name, err := t.nodeName(d.Home)
		return fmt.Sprintf("%s, epoch %d on %s", d.State, d.Epoch, name), err
	}
	var err error
	if j.stored != nil {
		if d.Store, err = at(*j.stored); err != nil {
			return d, err
		}
	}
	if j.action != "forgotten" && j.action != "missing" {
		if d.Agents, err = at(j.is); err != nil {
			return d, err
		}
	}
	if n, m := len(j.lacks), len(j.spare); n+m > 0 {
		d.Note = fmt.Sprintf("%d snapshots are missing, %d are no more", n, m)
	}
	return d, nil
}
