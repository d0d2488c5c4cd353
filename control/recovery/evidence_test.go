package recovery

import (
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// accountCase is what the store and nodes say of a dataset after the store went back. home is its home on
// record, at epoch 3, and other is another node.
type accountCase struct {
	home, other uuid.UUID
	Evidence
	coverage
}

func newAccount() *accountCase {
	c := &accountCase{home: uuid.New(), other: uuid.New()}
	c.ID = uuid.New()
	c.stored = c.at(3)
	c.index = 10
	c.relinquished = map[uuid.UUID]api.RelinquishedEpoch{}
	c.reported = map[uuid.UUID]bool{c.home: true}
	c.fenced = map[uuid.UUID]bool{}
	c.pools = map[uuid.UUID]bool{c.stored.Pool: true}
	return c
}

// at returns the record of the dataset at an epoch.
func (c *accountCase) at(epoch uint64) *dataset.Dataset {
	d := dataset.Dataset{ID: c.ID, Volume: "db", Home: c.home, Epoch: epoch, State: dataset.StateReady}
	if c.stored != nil {
		d.Pool = c.stored.Pool
	} else {
		d.Pool = uuid.New()
	}
	return &d
}

// claimed adds that the home says it has the dataset as it is in d, last written at index.
func (c *accountCase) claimed(d *dataset.Dataset, index uint64) {
	c.claims = append(c.claims, nodeReport{api.FoundDataset{Pool: d.Pool, Dataset: *d, Index: index}, d.Home, true})
}

// gaveUp adds that the home says it gave the epoch to the other node, which is heard or fenced, or neither if how is nil.
func (c *accountCase) gaveUp(epoch uint64, how map[uuid.UUID]bool) {
	c.relinquished[c.home] = api.RelinquishedEpoch{Dataset: c.ID, Epoch: epoch, ToNode: c.other}
	if how != nil {
		how[c.other] = true
	}
}

// After the store was put back, nodes disagree about a dataset. A statement of an epoch that has ended decides
// nothing.
func TestJudgeByEpoch(t *testing.T) {
	for name, x := range map[string]struct {
		say    func(c *accountCase)
		action api.RecordAction
		epoch  uint64
	}{
		"its home has it": {func(c *accountCase) { c.claimed(c.at(3), 10) }, "", 3},
		"its home gave up the epoch, to a node that is fenced":           {func(c *accountCase) { c.claimed(c.at(3), 10); c.gaveUp(3, c.fenced) }, "changed", 4},
		"its home gave up the epoch, to a node that has no later one":    {func(c *accountCase) { c.claimed(c.at(3), 10); c.gaveUp(3, c.reported) }, "changed", 3},
		"its home gave up an earlier epoch, to a node that is heard":     {func(c *accountCase) { c.claimed(c.at(3), 10); c.gaveUp(1, c.reported) }, "", 3},
		"its home gave up an earlier epoch, to a node that is fenced":    {func(c *accountCase) { c.claimed(c.at(3), 10); c.gaveUp(1, c.fenced) }, "", 3},
		"its home gave up the epoch, to a node that is not heard":        {func(c *accountCase) { c.claimed(c.at(3), 10); c.gaveUp(3, nil) }, "disputed", 3},
		"its home gave up an earlier epoch, to a node that is not heard": {func(c *accountCase) { c.claimed(c.at(3), 10); c.gaveUp(1, nil) }, "", 3},
		"its home gave up the epoch to a node that is heard, and a third node is not heard": {func(c *accountCase) {
			c.claimed(c.at(3), 10)
			c.silent = true
			c.gaveUp(3, c.reported)
		}, "disputed", 3},
		"its home gave up an earlier epoch, and a third node is not heard": {func(c *accountCase) {
			c.claimed(c.at(3), 10)
			c.silent = true
			c.gaveUp(1, c.reported)
		}, "", 3},
		"its home gave up the epoch and does not have it, and another node has a copy": {func(c *accountCase) {
			c.gaveUp(3, c.reported)
			c.copies = map[uuid.UUID]dataset.Copy{c.other: {Dataset: c.ID, Node: c.other, Epoch: 3}}
		}, "changed", 3},
		"its home does not have it": {func(c *accountCase) { c.silent = true }, "missing", 3},
		"its home has a copy, and knows of the epoch": {func(c *accountCase) {
			c.silent, c.copyHolders = true, []nodeReport{{FoundDataset: api.FoundDataset{Dataset: *c.at(3)}, node: c.home}}
		}, "missing", 3},
		"its home has a copy, and knows of an earlier epoch": {func(c *accountCase) {
			c.silent, c.copyHolders = true, []nodeReport{{FoundDataset: api.FoundDataset{Dataset: *c.at(2)}, node: c.home}}
		}, "", 3},
		"nobody has it":                         {func(*accountCase) {}, "forgotten", 3},
		"nobody has it, and its home is silent": {func(c *accountCase) { delete(c.reported, c.home) }, "missing", 3},
	} {
		t.Run(name, func(t *testing.T) {
			c := newAccount()
			x.say(c)
			if v := c.decide(c.coverage); v.action != x.action || v.Record.Epoch != x.epoch {
				t.Errorf("%q (%s), epoch %d, want %q, epoch %d", v.action, v.note, v.Record.Epoch, x.action, x.epoch)
			}
		})
	}
}

// A purged dataset stays purged, even if other records of its epoch are newer. Only a later epoch revives it.
func TestJudgePurged(t *testing.T) {
	purged := func(c *accountCase, epoch uint64) *dataset.Dataset {
		d := c.at(epoch)
		d.State = dataset.StatePurging
		return d
	}
	for name, x := range map[string]struct {
		say    func(c *accountCase)
		action api.RecordAction
		state  dataset.State
	}{
		"the home knows of a purge": {func(c *accountCase) { c.claimed(purged(c, 3), 11) }, "purging", dataset.StatePurging},
		"the home knows of a purge, at an unknown index": {func(c *accountCase) { c.claimed(purged(c, 3), 0) },
			"purging", dataset.StatePurging},
		"a holder of a copy knows of a purge, and the home does not": {func(c *accountCase) {
			c.claimed(c.at(3), 11)
			c.copyHolders = []nodeReport{{FoundDataset: api.FoundDataset{Dataset: *purged(c, 3)}, node: c.other}}
		}, "purging", dataset.StatePurging},
		"the store has no record": {func(c *accountCase) {
			d := purged(c, 3)
			c.stored = nil
			c.claimed(d, 11)
		}, "purging", dataset.StatePurging},
		"the store knows of a purge, and the home does not": {func(c *accountCase) {
			c.claimed(c.at(3), 11)
			c.stored.State = dataset.StatePurging
		}, "", ""},
		"both know of the purge": {func(c *accountCase) {
			c.claimed(purged(c, 3), 11)
			c.stored.State = dataset.StatePurging
		}, "", ""},
		"the store knows of a purge, and nobody has the data": {func(c *accountCase) {
			c.stored.State = dataset.StatePurging
		}, "", ""},
		"the store revived it in a later epoch": {func(c *accountCase) { c.claimed(purged(c, 2), 11) }, "", dataset.StateReady},
		"the home revived it in a later epoch": {func(c *accountCase) {
			c.claimed(c.at(4), 11)
			c.stored.State = dataset.StatePurging
		}, "changed", dataset.StateReady},
	} {
		t.Run(name, func(t *testing.T) {
			c := newAccount()
			x.say(c)
			if v := c.decide(c.coverage); v.action != x.action || v.Record.State != x.state {
				t.Errorf("%q (%s), %q, want %q, %q", v.action, v.note, v.Record.State, x.action, x.state)
			}
		})
	}
}

// Of one epoch, the record that was written last is right, whoever says it.
func TestJudgeByIndex(t *testing.T) {
	for index, want := range map[uint64]string{9: "renamed", 11: "as its home has it"} {
		c := newAccount()
		c.stored.Volume = "renamed"
		d := c.at(3)
		d.Volume = "as its home has it"
		c.claimed(d, index)
		if v := c.decide(c.coverage); v.Record.Volume != want {
			t.Errorf("the store wrote at index 10, the home saw index %d: %q is taken for right, want %q", index, v.Record.Volume, want)
		}
	}
}
