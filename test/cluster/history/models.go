package history

import (
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// name is the state of a name: its dataset, and the datasets that it had before. The dataset is "" if there is
// none, and unseen if no client has learned of it.
type name struct {
	now    string
	dead   string // sorted, separated by commas
	backup saved  // the state in the last backup
}

type saved struct{ now, dead string }

const unseen = "?"

// names returns the model of names: a name has one dataset at a time, and never one that it had before.
func names() porcupine.NondeterministicModel {
	return porcupine.NondeterministicModel{
		Init: func() []any { return []any{name{}} },
		Step: func(state, in, out any) []any {
			s, a := state.(name), out.(Answer)
			switch in.(Request).Kind {
			case Create:
				return s.create(a)
			case Get:
				return s.get(a)
			case Remove:
				return s.remove(a)
			case save:
				s.backup = saved{s.now, s.dead}
				return []any{s}
			case restored:
				return []any{s, name{s.backup.now, s.backup.dead, s.backup}}
			}
			return nil
		},
	}
}

// withDataset returns the name with another dataset.
func (s name) withDataset(dataset string) name {
	s.now = dataset
	return s
}

func (s name) create(a Answer) []any {
	switch {
	case a == Answer{} && s.now == "":
		return []any{s, s.withDataset(unseen)}
	case a.Done && s.now == "":
		return []any{s.withDataset(unseen)}
	case a == Answer{} || a.Done || a.Dataset != "" && s.now == a.Dataset:
		return []any{s}
	case a.Dataset != "" && (s.now == "" || s.now == unseen) && !s.had(a.Dataset):
		return []any{s.withDataset(a.Dataset)}
	}
	return nil
}

func (s name) get(a Answer) []any {
	switch {
	case a.Absent && s.now == "", a.Dataset != "" && s.now == a.Dataset:
		return []any{s}
	case a.Dataset != "" && s.now == unseen && !s.had(a.Dataset):
		return []any{s.withDataset(a.Dataset)}
	}
	return nil
}

func (s name) remove(a Answer) []any {
	switch {
	case a.Absent && s.now == "", a == Answer{} && s.now == "":
		return []any{s}
	case a.Done && s.now != "":
		return []any{s.markRemoved()}
	case a == Answer{}:
		return []any{s, s.markRemoved()}
	}
	return nil
}

func (s name) had(dataset string) bool { return slices.Contains(strings.Split(s.dead, ","), dataset) }

func (s name) markRemoved() name {
	if s.now != unseen {
		dead := append(strings.Split(s.dead, ","), s.now)
		slices.Sort(dead)
		s.dead = strings.Trim(strings.Join(dead, ","), ",")
	}
	return s.withDataset("")
}

// lease is the state of a dataset: the node that mounted it last, and the mount IDs.
type lease struct {
	node    string
	epoch   uint64
	atLeast bool // the exact epoch is unknown; it is at least epoch
	// by how much the epoch may have grown while the dataset was in use, because each recovery of the store raises
	// epochs by one
	raised uint64
	ids    string // sorted, separated by commas
}

// leases returns the model of leases: a dataset in use is mounted on one node, under one epoch. The epoch only
// grows, and changes only while the dataset is not in use.
func leases() porcupine.NondeterministicModel {
	return porcupine.NondeterministicModel{
		Init: func() []any { return []any{lease{}} },
		Step: func(state, in, out any) []any {
			s, q, a := state.(lease), in.(Request), out.(Answer)
			switch q.Kind {
			case Mount:
				return s.mount(q, a)
			case Unmount:
				return s.possibleStates(s.without(q.ID), a)
			case Fence:
				if s.node != q.Node {
					return []any{s}
				}
				free := s
				free.ids = ""
				return s.possibleStates(free, a)
			case save:
				return []any{s}
			case restored:
				s.raised++
				return []any{s}
			}
			return nil
		},
	}
}

// possibleStates returns the possible states after a request. If there was an answer, that is only then. Without an
// answer the request may have had no effect, so the state s is possible too.
func (s lease) possibleStates(then lease, a Answer) []any {
	if a.Done {
		return []any{then}
	}
	return []any{s, then}
}

func (s lease) mount(q Request, a Answer) []any {
	stays, moves := s.node == q.Node, s.ids == ""
	if a.Epoch > 0 {
		taken := lease{node: q.Node, epoch: a.Epoch}.with(s.ids, q.ID)
		if stays && a.Epoch > s.epoch && a.Epoch <= s.epoch+s.raised {
			taken.raised = s.raised - (a.Epoch - s.epoch)
			return []any{taken}
		} else if stays && a.Epoch == s.epoch {
			taken.raised = s.raised
		}
		same := stays && (a.Epoch == s.epoch || s.atLeast && a.Epoch > s.epoch)
		if same || moves && a.Epoch > s.epoch {
			return []any{taken}
		}
		return nil
	}
	could := []any{s}
	if stays {
		could = append(could, s.with(s.ids, q.ID))
	}
	if moves {
		could = append(could, lease{node: q.Node, epoch: s.epoch + 1, atLeast: true}.with("", q.ID))
	}
	return could
}

func (s lease) with(ids, id string) lease {
	all := slices.DeleteFunc(strings.Split(ids, ","), func(s string) bool { return s == "" || s == id })
	all = append(all, id)
	slices.Sort(all)
	s.ids = strings.Join(all, ",")
	return s
}

func (s lease) without(id string) lease {
	s.ids = strings.Join(slices.DeleteFunc(strings.Split(s.ids, ","), func(i string) bool { return i == id }), ",")
	return s
}
