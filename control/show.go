package control

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// planShow decides that a person may look at a head that was overtaken: its node is to mount
// it, read-only, or no more. That it does so, and where, is on record with the copy. Again: the
// same. Errors as of planDiscard; ErrOffline when the node that is to mount it is away.
func (s *Service) planShow(t *tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, c, err := t.overtakenCopy(req)
	if err == nil && req.Kind == dataset.OpShow {
		err = s.answers(t, d, c.Node)
	}
	if err != nil {
		return nil, nil, err
	}
	op := on(d)
	op.Kind, op.From = req.Kind, c.Node
	return op, nil, nil
}

// answers fails with ErrOffline when nothing is heard of the node that keeps a head.
func (s *Service) answers(t *tx, d dataset.Dataset, node uuid.UUID) error {
	if !s.Shared {
		return nil
	}
	since, alive, err := t.living(node)
	if err != nil || alive {
		return err
	}
	name, err := t.nodeName(node)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrOffline,
		"volume %s: node %s, which keeps the head of it that was overtaken, %s: it can be mounted there "+
			"once that is back (drover node ls)", d.Volume, name, isAway(since))
}

// settleShow has the node mount what it keeps, or no more. What it said of an earlier try
// goes: who waits for its answer waits for a new one.
func (s *Service) settleShow(t *tx, op dataset.Operation) error {
	d, err := t.dataset(op.DatasetID)
	if err != nil {
		return err
	}
	name, err := t.nodeName(op.From)
	if err != nil {
		return err
	}
	var c dataset.Copy
	if there, err := t.get(record.CopyKey(op.From, d.ID), &c); err != nil || !there {
		return err // planShow has just read it
	}
	typ, detail := "volume.show", "the head that node "+name+" kept, mounted there read-only"
	if c.Shown = op.Kind == dataset.OpShow; !c.Shown {
		typ, detail = "volume.hide", "the head that node "+name+" kept, mounted there no more"
	}
	c.Problem = ""
	t.event(typ, d, detail)
	t.touch(d.ID, op.From)
	return t.put(record.CopyKey(op.From, d.ID), c)
}

// looked takes in where a node has mounted a head that was overtaken, or why not. What was
// said before it was wanted otherwise is not heard.
func (t *tx) looked(rec, now dataset.Copy) error {
	now.Problem = dataset.Cut(now.Problem)
	if rec.Kind != dataset.CopySuperseded || rec.Shown != now.Shown || rec.Path == now.Path &&
		rec.Problem == now.Problem {
		return nil
	}
	rec.Path, rec.Problem = now.Path, now.Problem
	t.touch(rec.Dataset, rec.Node)
	return t.put(record.CopyKey(rec.Node, rec.Dataset), rec)
}
