package wire

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
)

// Problem is an error in an HTTP answer: problem details of RFC 9457 with the stable code of the error's kind as an
// additional member.
type Problem struct {
	Type   string `json:"type" doc:"urn:drover:problem: followed by the code"`
	Title  string `json:"title" doc:"short text that is the same for all problems with the code"`
	Status int    `json:"status" doc:"the HTTP status"`
	Detail string `json:"detail" doc:"one line: the request, the problem and the remedy"`
	Code   string `json:"code" doc:"stable code of the kind of problem"`
	// Request is the ID of the request, with which the log lines about it can be found.
	Request string `json:"request,omitempty" doc:"ID of the request (header X-Request-Id), also in the logs"`
	// Operation is set if the work waits for an operation. The status is still that of an error, because an answer
	// below 300 has the requested object.
	Operation uuid.UUID `json:"operation,omitzero" doc:"UUID of the operation that continues the work; absent: none"`
	// Holders is set for a volume in use if the node examined who uses it.
	Holders *dataset.Holders `json:"holders,omitempty" doc:"users of the volume there; absent: not examined"`
}

// ProblemType is the media type of problem details.
const ProblemType = "application/problem+json"

// ProblemOf returns the problem for an error. The problem of an internal error has only the first line of its text,
// because the rest may be a stack trace.
func ProblemOf(err error) *Problem {
	kind := dataset.KindOf(err)
	detail := dataset.OneLine(err)
	if kind == dataset.ErrInternal {
		detail, _, _ = strings.Cut(err.Error(), "\n")
	}
	p := NewProblem(kind, kind.HTTP, detail)
	p.Operation, p.Holders = dataset.ContinuesAs(err), dataset.HoldersOf(err)
	return p
}

// NewProblem returns a problem of the kind with the given HTTP status, which may differ from the status of the kind. It
// truncates the detail.
func NewProblem(kind *dataset.Kind, status int, detail string) *Problem {
	return &Problem{
		Type: "urn:drover:problem:" + kind.Code, Title: kind.Title,
		Status: status, Detail: dataset.Cut(detail), Code: kind.Code,
	}
}

// Error returns the detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus returns the HTTP status. huma calls it.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of problem details. huma calls it.
func (p *Problem) ContentType(string) string { return ProblemType }

// Err returns the error that the problem was made from, with the same kind and text.
func (p *Problem) Err() error {
	if p.Operation != uuid.Nil && p.Code == dataset.ErrPending.Code {
		return dataset.PendingOn(p.Operation, "%s", p.Detail)
	}
	err := dataset.Errorf(dataset.KindByCode(p.Code), "%s", p.Detail)
	if p.Holders != nil {
		return dataset.WithHolders(err, *p.Holders)
	}
	return err
}

// GetHeaders returns the headers of the answer beside its media type. huma calls it.
func (p *Problem) GetHeaders() http.Header {
	if p.Operation == uuid.Nil {
		return nil
	}
	return http.Header{"Location": {OperationLocation(p.Operation)}}
}

// OperationLocation returns the header Location of an answer to work that continues as an operation.
func OperationLocation(op uuid.UUID) string { return "/v1/operations/" + op.String() }

// Write sends the problem as the answer, for handlers that do not use huma. The problem gets the ID of the request that
// is in the header of the answer.
func (p *Problem) Write(w http.ResponseWriter) {
	p.Request = w.Header().Get(requestid.Header)
	maps.Copy(w.Header(), p.GetHeaders())
	w.Header().Set("Content-Type", ProblemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the peer may be gone
}
