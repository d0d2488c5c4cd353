package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// Change is one line of the audit log: what somebody changed, or read as a whole, or wanted to.
type Change struct {
	Time    time.Time `json:"time"` // when it ended; set by who keeps the log
	Who     string    `json:"who"`
	From    string    `json:"from,omitempty"` // address, or user of the host
	What    string    `json:"what"`           // operation ID of the endpoint, or the method and path
	Kind    string    `json:"kind,omitempty"` // of the operation
	Node    string    `json:"node,omitempty"`
	Target  string    `json:"target,omitempty"` // the volume, dataset, pool, token … that it is about
	ID      uuid.UUID `json:"operation,omitzero"`
	Detail  string    `json:"detail,omitempty"`
	Bytes   int64     `json:"bytes,omitempty"` // of a volume or the store that went to the caller
	Outcome Outcomes  `json:"outcome"`
	Code    string    `json:"code,omitempty"`  // of the problem
	Error   string    `json:"error,omitempty"` // its line

	quiet bool // for the log only if it was refused
	read  bool // not for the log
}

// Outcomes is how a change ended.
type Outcomes string

// How a change ends.
const (
	Done    Outcomes = "done"
	Refused Outcomes = "refused" // who asked may not
	Failed  Outcomes = "failed"
)

type changeKey struct{}

// changeOf returns the change that a request makes; one that nobody keeps when it
// makes none.
func changeOf(ctx context.Context) *Change {
	if c, ok := ctx.Value(changeKey{}).(*Change); ok {
		return c
	}
	return &Change{}
}

// withChange begins a request's change. That of a read is kept only if begins says so.
func withChange(ctx context.Context, p Principal, r *http.Request) (context.Context, *Change) {
	c := &Change{Who: p.String(), From: p.From, What: dataset.Clip(r.Method) + " " + dataset.Clip(r.URL.Path)}
	c.read = r.Method == http.MethodGet || r.Method == http.MethodHead
	return context.WithValue(ctx, changeKey{}, c), c
}

// begins says which endpoint is asked, by whose rule, and for what.
func (c *Change) begins(op huma.Operation, param func(string) string, r rule) {
	c.What, c.Node, c.quiet = op.OperationID, dataset.Clip(param("node")), r.quiet
	if r.carries {
		c.read = false
	}
	for _, name := range []string{"volume", "snapshot", "dataset", "id"} {
		if v := param(name); v != "" {
			c.Target = dataset.Clip(v)
		}
	}
}

func (c *Change) failed(err error) {
	p := ProblemOf(err)
	c.Code, c.Error = p.Code, p.Detail
}

// asks notes what a request is.
func (c *Change) asks(req Request) {
	c.Kind, c.ID = dataset.Clip(string(req.Kind)), req.ID
	if req.Volume != "" {
		c.Target = dataset.Clip(req.Volume)
	}
	c.says("path ", req.Path)
	c.says("snapshot ", req.Snapshot)
	c.says("node ", req.Node)
	if req.Force {
		c.says("", "force")
	}
	c.says("fenced ", req.Fenced) // the node for whose end who asks vouches
}

// carried notes how much of a volume or the store went to the caller, and why not all.
func (c *Change) carried(bytes int64, err error) {
	if c.Bytes = bytes; err != nil {
		c.failed(err)
	}
}

// says adds to what was asked for; nothing where that is empty.
func (c *Change) says(what, value string) {
	if value == "" {
		return
	}
	if c.Detail != "" {
		c.Detail += ", "
	}
	c.Detail += what + dataset.Clip(value)
}

// reports notes what an agent says of an operation.
func (c *Change) reports(op dataset.Operation) {
	c.Kind, c.ID, c.Target = dataset.Clip(string(op.Kind)), op.ID, dataset.Clip(op.Volume)
	if op.Volume == "" {
		c.Target = op.DatasetID.String()
	}
	if op.Problem != nil {
		c.Detail = "it failed: " + dataset.Clip(op.Problem.Message)
	}
}

// ends gives the change to who keeps the log. status is the answer's, 0 for none.
func (c *Change) ends(status int, keep func(Change)) {
	switch {
	case keep == nil || c.read || c.quiet && status != http.StatusForbidden:
		return
	case status == http.StatusForbidden:
		c.Outcome = Refused
	case status >= 300 || status == 0 || c.Code != "":
		c.Outcome = Failed
	default:
		c.Outcome = Done
	}
	keep(*c)
}

// Audited returns a service whose agent is in this process, with what that changes
// in the audit log as if it had come over the wire.
func Audited(s Service, keep func(Change)) Service { return audited{s, keep} }

type audited struct {
	Service
	keep func(Change)
}

func (a audited) note(what string, fill func(*Change), err error) {
	c := &Change{Who: Principal{Local: true}.String(), What: what}
	fill(c)
	status := http.StatusOK
	if err != nil {
		c.failed(err)
		status = dataset.KindOf(err).HTTP
	}
	c.ends(status, a.keep)
}

func (a audited) Submit(ctx context.Context, req Request) (Outcome, error) {
	out, err := a.Service.Submit(ctx, req)
	a.note("submit-operation", func(c *Change) { c.asks(req) }, err)
	return out, err
}

func (a audited) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	op, err := a.Service.CancelOperation(ctx, id)
	a.note("cancel-operation", func(c *Change) { c.Target = dataset.Clip(id) }, err)
	return op, err
}

func (a audited) Register(ctx context.Context, r Registration) error {
	err := a.Service.Register(ctx, r)
	a.note("register-node", func(c *Change) { c.Node, c.Target = r.Node.ID.String(), dataset.Clip(r.Node.Name) }, err)
	return err
}

func (a audited) Commit(ctx context.Context, node uuid.UUID, r Report) (Committed, error) {
	out, err := a.Service.Commit(ctx, node, r)
	a.note("commit", func(c *Change) { c.Node = node.String(); c.reports(r.Operation) }, err)
	return out, err
}

func (a audited) Record(ctx context.Context, node uuid.UUID, r Report) error {
	err := a.Service.Record(ctx, node, r)
	a.note("record", func(c *Change) { c.Node = node.String(); c.reports(r.Operation) }, err)
	return err
}

func (a audited) Rebuild(ctx context.Context, node uuid.UUID, found []Found) ([]Rebuilt, error) {
	out, err := a.Service.Rebuild(ctx, node, found)
	a.note("rebuild", func(c *Change) { c.Node = node.String() }, err)
	return out, err
}
