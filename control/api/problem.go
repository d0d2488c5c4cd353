package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/droverhq/drover/dataset"
)

// Problem is an error as it travels: RFC 9457 problem details with the stable
// code of the error's kind as a further member.
type Problem struct {
	Type   string `json:"type" doc:"urn:drover:problem: and the code"`
	Title  string `json:"title" doc:"a few words, the same for every problem of the code"`
	Status int    `json:"status" doc:"the HTTP status"`
	Detail string `json:"detail" doc:"one line: what was asked, what is wrong, what would do"`
	Code   string `json:"code" doc:"what sort of problem this is; stable"`
}

const problemType = "application/problem+json"

// ProblemOf returns err as it travels. Of an internal error only the first line
// does, as the rest may be a stack.
func ProblemOf(err error) *Problem {
	kind := dataset.KindOf(err)
	detail := dataset.OneLine(err)
	if kind == dataset.ErrInternal {
		detail, _, _ = strings.Cut(err.Error(), "\n")
	}
	return problem(kind, kind.HTTP, detail)
}

func problem(kind *dataset.Kind, status int, detail string) *Problem {
	return &Problem{
		Type: "urn:drover:problem:" + kind.Code, Title: kind.Title,
		Status: status, Detail: dataset.Cut(detail), Code: kind.Code,
	}
}

// Error returns the line.
func (p *Problem) Error() string { return p.Detail }

// GetStatus returns the HTTP status, for huma.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type of problem details, for huma.
func (p *Problem) ContentType(string) string { return problemType }

// Err makes the problem an error of the kind and with the text that it had
// before it travelled.
func (p *Problem) Err() error {
	return dataset.Errorf(dataset.KindByCode(p.Code), "%s", p.Detail)
}

// write answers with the problem, where huma does not.
func (p *Problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // who asked may be gone
}

// translate is the transformer that gives huma's own errors, of requests that
// never reached a handler, the shape of all others.
func translate(hc huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	kind := dataset.ErrInvalid
	if e.Status >= http.StatusInternalServerError {
		kind = dataset.ErrInternal
	}
	p := problem(kind, e.Status, validationLine(e))
	changeOf(hc.Context()).failed(p.Err())
	return p, nil
}

// maxComplaints bounds what a hostile body can make us answer.
const maxComplaints = 5

func validationLine(e *huma.ErrorModel) string {
	if len(e.Errors) == 0 {
		return oneLine(e.Detail)
	}
	var lines []string
	for _, d := range e.Errors {
		lines = append(lines, complaint(d))
	}
	slices.Sort(lines) // they come in the order of a map
	if more := len(lines) - maxComplaints; more > 0 {
		lines = append(lines[:maxComplaints], fmt.Sprintf("and %d more", more))
	}
	return "bad request: " + strings.Join(lines, "; ")
}

func complaint(d *huma.ErrorDetail) string {
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

// errBadBody says what is wrong with a JSON body.
func errBadBody(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("bad JSON at byte %d: %w", syntax.Offset, err)
	}
	return fmt.Errorf("bad JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
}
