// Package wire defines the representations in HTTP that both sides of the API use besides the JSON of the types in
// package api. Packages client, server and endpoint call it, package openapi describes Problem, and it has no state. A
// new header, trailer or media type of the API belongs here. It has:
//
//   - errors as problem details (Problem)
//   - events as server-sent events (EncodeEvent, ReadEvents)
//   - the end of an archive in trailers (SetTrailers, StreamError)
//   - the version of the program in User-Agent and Server (ProductName, VersionIn)
//   - the age of an answer that an agent gave without control (KnownAt)
//   - the preference for summaries (Minimal)
//   - bounded waits (ParseWait, FormatWait) and strict JSON (DecodeStrict)
package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
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

// DecodeStrict reads one JSON value into v. It refuses unknown fields, and anything after the value.
func DecodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return fmt.Errorf("bad JSON at byte %d: %w", syntax.Offset, err)
		}
		return fmt.Errorf("bad JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bad JSON: more than one value")
	}
	return nil
}

// Minimal is the value of the header Prefer (RFC 7240) with which a client asks for the summaries of a list. Lists
// without summaries have the whole items.
const Minimal = "return=minimal"

// MinimalHealth asks for summaries with the fields that an assessment of the health of volumes needs.
const MinimalHealth = "return=minimal, health"

// IsAbort reports whether the value of a panic is http.ErrAbortHandler, with which a handler breaks its connection.
func IsAbort(v any) bool {
	err, ok := v.(error)
	return ok && errors.Is(err, http.ErrAbortHandler)
}

// Trailers of an archive. An incomplete archive must not look complete, but the HTTP status cannot change after the
// first bytes. If the peer asked for trailers (TE: trailers), they show whether the archive is complete. For a peer
// that did not ask, the server breaks the connection after an incomplete archive.
const (
	CodeTrailer    = "Drover-Code"     // CodeOK, or the code of a problem
	DetailTrailer  = "Drover-Detail"   // the text of the problem, percent-encoded
	LeftOutTrailer = "Drover-Left-Out" // what a complete archive lacks; absent: nothing

	CodeOK = "ok" // value of CodeTrailer after a complete archive
)

// TrailerNames lists the trailers, as the header Trailer announces them.
func TrailerNames() []string { return []string{CodeTrailer, DetailTrailer, LeftOutTrailer} }

// WantsTrailers reports whether the peer asked for trailers.
func WantsTrailers(r *http.Request) bool {
	for _, v := range r.Header.Values("TE") {
		if strings.Contains(strings.ToLower(v), "trailers") {
			return true
		}
	}
	return false
}

// SetTrailers sets the trailers of an archive that ended with err. If err is nil, the archive is complete except for
// the files in leftOut.
func SetTrailers(h http.Header, leftOut api.OmittedFiles, err error) {
	if err != nil {
		p := ProblemOf(err)
		h.Set(CodeTrailer, p.Code)
		h.Set(DetailTrailer, url.PathEscape(p.Detail))
		return
	}
	h.Set(CodeTrailer, CodeOK)
	if leftOut.Count > 0 {
		h.Set(LeftOutTrailer, formatOmittedFiles(leftOut))
	}
}

// StreamError returns the error that the trailers of an archive report. Without trailers it is unknown whether the
// archive is complete, so the error is ErrUnavailable.
func StreamError(h http.Header) error {
	code := h.Get(CodeTrailer)
	switch code {
	case CodeOK:
		return nil
	case "":
		return dataset.Errorf(dataset.ErrUnavailable, "the answer ended early: the received data is incomplete")
	}
	detail, err := url.PathUnescape(h.Get(DetailTrailer))
	if err != nil {
		detail = h.Get(DetailTrailer)
	}
	return (&Problem{Code: code, Detail: detail}).Err()
}

// formatOmittedFiles returns the value of LeftOutTrailer: the count and the first paths, percent-encoded, with a space
// between two.
func formatOmittedFiles(l api.OmittedFiles) string {
	words := []string{strconv.Itoa(l.Count)}
	for _, path := range l.First {
		words = append(words, url.PathEscape(path))
	}
	return strings.Join(words, " ")
}

// ReadOmittedFiles reads LeftOutTrailer. If it is absent, nothing was left out.
func ReadOmittedFiles(h http.Header) (l api.OmittedFiles, err error) {
	words := strings.Fields(h.Get(LeftOutTrailer))
	if len(words) == 0 {
		return l, nil
	}
	if l.Count, err = strconv.Atoi(words[0]); err != nil {
		return l, dataset.Errorf(dataset.ErrInternal, "bad answer: %s is %q", LeftOutTrailer,
			dataset.Clip(h.Get(LeftOutTrailer)))
	}
	for _, word := range words[1:] {
		path, err := url.PathUnescape(word)
		if err != nil {
			path = word
		}
		l.First = append(l.First, path)
	}
	return l, nil
}

// agentName is the product name of this module's programs in the headers User-Agent and Server. The version follows
// it (RFC 9110, section 10.1.5).
const agentName = "drover/"

// VersionIn returns the version in a User-Agent or Server header, or "" if another program wrote the header.
func VersionIn(header string) string {
	product, _, _ := strings.Cut(header, " ")
	version, ok := strings.CutPrefix(product, agentName)
	if !ok {
		return ""
	}
	return version
}

// ProductName returns the value of User-Agent or Server for a version of this program, or "" if the version is empty.
func ProductName(version string) string {
	if version == "" {
		return ""
	}
	return fmt.Sprint(agentName, version)
}
