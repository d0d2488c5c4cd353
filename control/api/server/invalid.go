package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// translate is a transformer of huma. It converts errors of huma itself, about requests that never reached a handler,
// into problems.
func translate(hc huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	kind := dataset.ErrInvalid
	if e.Status >= http.StatusInternalServerError {
		kind = dataset.ErrInternal
	}
	p := wire.NewProblem(kind, e.Status, validationLine(e))
	changeOf(hc.Context()).noteError(p.Err())
	p.Request = requestid.Of(hc.Context())
	return p, nil
}

// maxFaults limits the answer to an invalid body.
const maxFaults = 5

func validationLine(e *huma.ErrorModel) string {
	if len(e.Errors) == 0 {
		return oneLine(e.Detail)
	}
	var lines []string
	for _, d := range e.Errors {
		lines = append(lines, describeFault(d))
	}
	slices.Sort(lines) // huma returns them in random order
	if more := len(lines) - maxFaults; more > 0 {
		lines = append(lines[:maxFaults], fmt.Sprintf("and %d more", more))
	}
	return "bad request: " + strings.Join(lines, "; ")
}

func describeFault(d *huma.ErrorDetail) string {
	where, message := dataset.Clip(oneLine(d.Location)), dataset.Clip(oneLine(d.Message))
	switch {
	case message == validation.MsgUnexpectedProperty:
		return fmt.Sprintf("unknown field %s", where)
	case strings.HasPrefix(message, huma.ErrUnknownContentType.Error()):
		return message + " (want application/json)"
	case where == "":
		return message
	}
	return where + ": " + message
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
