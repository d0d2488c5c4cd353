package server

import (
	"maps"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/droverhq/drover/control/api/openapi"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
)

// work is a response about work that can continue as an operation. Then the status is 202 and Location names the
// operation.
type work[T any] struct {
	Status   int
	Location string `header:"Location"`
	Body     T
}

// accepted answers with v. location is the location of the operations that have not ended; it is empty if all have
// ended.
func accepted[T any](v T, location string, err error) (*work[T], error) {
	if err != nil {
		return nil, err
	}
	if location != "" {
		return &work[T]{http.StatusAccepted, location, v}, nil
	}
	return &work[T]{http.StatusOK, "", v}, nil
}

// pendingLocation returns the location of an operation. It is empty if there is none, or if it has ended.
func pendingLocation(op *dataset.Operation) string {
	if op == nil || op.State.Final() {
		return ""
	}
	return wire.OperationLocation(op.ID)
}

// describe adds the response 202 to the responses of an endpoint whose output is a work.
func (work[T]) describe(responses map[string]*huma.Response) {
	done, accepted := responses["200"], openapi.Accepted()
	done.Headers = nil
	accepted.Content = maps.Clone(done.Content)
	responses["202"] = accepted
}
