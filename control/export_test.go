package control

import (
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// Alone, Makes and MayRequest are functions that the tests of this package call.
var (
	Alone      = func(k dataset.OpKind) bool { return kinds[k].records }
	Makes      = func(k dataset.OpKind) bool { return kinds[k].makes }
	MayRequest = mayRequest
)

// SubmitIn is submit.
func (s *Service) SubmitIn(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	return s.submit(t, req)
}
