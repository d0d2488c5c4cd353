package control

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// preview decides on a request as Submit does, and discards the decision. The operation in the outcome is not recorded.
// The volume in the outcome is the present state of the dataset that the operation changes.
//
// The agent of the home refuses some requests while the dataset is in use. preview refuses such a request if the home
// last reported the dataset as in use.
func (s *Service) preview(ctx context.Context, req api.Request) (out api.Outcome, err error) {
	var done *dataset.Dataset
	err = s.Ledger.Preview(ctx, func(t *record.Tx) error {
		out, done, err = api.Outcome{}, nil, nil
		out.Operation, done, err = s.submit(t, req)
		return err
	})
	if err != nil {
		return api.Outcome{}, err
	}
	err = s.Ledger.View(ctx, func(t *record.Tx) error {
		d := dataset.Dataset{}
		switch {
		case done != nil:
			d = *done
		case kinds[out.Operation.Kind].makes, kinds[out.Operation.Kind].temporary:
			return nil
		default:
			there, err := t.Get(record.DatasetKey(out.Operation.DatasetID), &d)
			if err != nil || !there {
				return err
			}
		}
		v, err := s.Views.Present(t, d)
		if err != nil {
			return err
		}
		out.Volume = &v
		return checkReportedUnused(v, out.Operation, req.Force)
	})
	if err != nil {
		return api.Outcome{}, err
	}
	return out, nil
}

// checkReportedUnused fails with dataset.ErrInUse if an operation needs an unused dataset, and the home has reported a
// use of it. A move would first copy most of the data, and would be refused only after that. A move or deletion without
// the home (--force --fenced) does not ask the home. op may be nil.
func checkReportedUnused(v api.Volume, op *dataset.Operation, forced bool) error {
	if op == nil || v.Status == nil || len(v.Status.Mounts) == 0 {
		return nil
	}
	what := kinds[op.Kind].unused
	if what == "" || op.Kind == dataset.OpMove && forced || op.Kind != dataset.OpMove && op.OtherNode != uuid.Nil {
		return nil
	}
	return dataset.Errorf(dataset.ErrInUse,
		"cannot %s volume %s: it is mounted on node %s (stop its containers first; drover volume inspect %s lists the "+
			"mounts)", what, v.Volume, v.Node, v.Volume)
}
