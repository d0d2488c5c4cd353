package server

import (
	"context"
	"net/http"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/requestid"
)

// pending is the line of the audit log for the request in progress, and whether it is written at all.
type pending struct {
	api.Change
	err   error // why the request failed; nil: it did not
	quiet bool  // written only if the request is refused
	read  bool  // the request only reads, so the line is not written
}

type changeKey struct{}

// changeOf returns the pending line of a request. If there is none, it returns one that is never written.
func changeOf(ctx context.Context) *pending {
	if c, ok := ctx.Value(changeKey{}).(*pending); ok {
		return c
	}
	return &pending{}
}

// withChange adds the pending line of a request to its context. The line of a read is written only if the rule of its
// endpoint requires that: see start.
func withChange(ctx context.Context, p api.Principal, r *http.Request) (context.Context, *pending) {
	c := &pending{Change: api.Change{
		Who:     p.String(),
		From:    p.From,
		What:    dataset.Clip(r.Method) + " " + dataset.Clip(r.URL.Path),
		Request: requestid.Of(ctx),
	}}
	c.read = r.Method == http.MethodGet || r.Method == http.MethodHead
	return context.WithValue(ctx, changeKey{}, c), c
}

// start notes the endpoint and the object that the path names.
func (c *pending) start(e endpoint.Endpoint, param func(string) string) {
	c.What, c.Node, c.quiet = e.ID, dataset.Clip(param("node")), e.Access.Quiet
	if e.Access.Exports {
		c.read = false
	}
	for _, name := range []string{
		"alias", "volume", "snapshot", "dataset", "operation", "operator", "pool", "repository", "backup",
	} {
		if v := param(name); v != "" {
			c.Target = dataset.Clip(v)
		}
	}
}

func (c *pending) noteError(err error) {
	p := wire.ProblemOf(err)
	c.err, c.Code, c.Error = err, p.Code, p.Detail
}

func (c *pending) noteRequest(req api.Request) {
	c.Kind, c.ID = dataset.Clip(string(req.Kind)), req.ID
	if req.Volume != "" {
		c.Target = dataset.Clip(req.Volume)
	}
	c.addDetail("path ", req.Path)
	c.addDetail("repository ", req.Repository)
	c.addDetail("backup ", req.Backup)
	c.addDetail("snapshot ", req.Snapshot)
	c.addDetail("name ", req.Name)
	c.addDetail("node ", req.Node)
	if req.Force {
		c.addDetail("", "force")
	}
	if req.DryRun {
		c.addDetail("", "dry run")
	}
	c.addDetail("fenced ", req.Fenced) // the node that the caller confirms to be fenced
}

// noteBytes notes how many bytes of a volume or the store were sent and, if the transfer was incomplete, the reason.
func (c *pending) noteBytes(bytes int64, err error) {
	if c.Bytes = bytes; err != nil {
		c.noteError(err)
	}
}

// addDetail adds a word to the detail, unless the value is empty.
func (c *pending) addDetail(what, value string) {
	if value == "" {
		return
	}
	if c.Detail != "" {
		c.Detail += ", "
	}
	c.Detail += what + dataset.Clip(value)
}

// noteReport notes which operation an agent reports.
func (c *pending) noteReport(op dataset.Operation) {
	c.Kind, c.ID, c.Target = dataset.Clip(string(op.Kind)), op.ID, dataset.Clip(op.Volume)
	if op.Volume == "" {
		c.Target = op.DatasetID.String()
	}
	if op.Problem != nil {
		c.Detail = "it failed: " + dataset.Clip(op.Problem.Message)
	}
}

// finish passes the line to keep, which writes it to the log. status is that of the answer, or 0 if there was none.
func (c *pending) finish(status int, keep func(api.Change)) {
	switch {
	case keep == nil || c.read || c.quiet && status != http.StatusForbidden:
		return
	case status == http.StatusForbidden:
		c.Outcome = api.Refused
	case status >= 300 || status == 0 || c.Code != "":
		c.Outcome = api.Failed
	default:
		c.Outcome = api.Done
	}
	keep(c.Change)
}

// logEnd writes the log line of a request that has ended. status is that of the answer, or 0 if there was none.
func (g *frontHandler) logEnd(ctx context.Context, who api.Principal, c *pending, status int) {
	if g.log == nil {
		return
	}
	level, message := c.logLine(ctx, who, status)
	if l, ok := g.log.(*logrus.Logger); ok && !l.IsLevelEnabled(level) {
		return
	}
	fields := logrus.Fields{"what": c.What, "who": c.Who}
	if c.Target != "" {
		fields["target"] = c.Target
	}
	if c.ID != uuid.Nil {
		fields["op"] = c.ID
	}
	if c.Error != "" {
		fields["error"] = c.Error
	}
	requestid.Log(ctx, g.log).WithFields(fields).Log(level, message)
}

// logLine returns the level and the text of the log line of a request.
//
// A successful change has level info if it belongs to the request of an engine or a user. Every other success has level
// debug: agents also make changes in the background.
//
// A failure has the level of failurelog.LevelOf. It has level debug instead if the caller is an agent, control or this
// process, which logs the failure itself, or if the caller is not identified, because anybody can cause such lines. A
// read that would have level info, such as one that was refused, has level debug too.
func (c *pending) logLine(ctx context.Context, who api.Principal, status int) (logrus.Level, string) {
	err := c.err
	if err == nil && (status >= http.StatusBadRequest || status == 0) {
		err = dataset.Errorf(dataset.ErrInvalid, "status %d", status)
	}
	unknown := who.Kind == "" && !who.Local
	level := failurelog.LevelOf(err)
	switch {
	case err == nil && !c.read && !c.quiet && requestid.Of(ctx) != "":
		level = logrus.InfoLevel
	case err == nil:
	case isProgram(who), unknown, c.read && level == logrus.InfoLevel:
		level = logrus.DebugLevel
	}
	return level, "request " + failurelog.Outcome(err)
}

// Audited returns a service for the agent of a single host, which runs in this process. The changes that such an agent
// makes appear in the audit log as if they had come over the network. The methods that only agents of a cluster call,
// such as Recall, are not logged. A new method of api.Nodes that changes a record needs a method here, unless the rule
// of its endpoint is quiet (access.go).
func Audited(s api.Service, keep func(api.Change)) api.Service { return audited{s, keep} }

type audited struct {
	api.Service
	keep func(api.Change)
}

func (a audited) note(ctx context.Context, what string, fill func(*pending), err error) {
	c := &pending{Change: api.Change{
		Who: api.Principal{Local: true}.String(), What: what, Request: requestid.Of(ctx),
	}}
	fill(c)
	status := http.StatusOK
	if err != nil {
		c.noteError(err)
		status = dataset.KindOf(err).HTTP
	}
	c.finish(status, a.keep)
}

func (a audited) Submit(ctx context.Context, req api.Request) (api.Outcome, error) {
	out, err := a.Service.Submit(ctx, req)
	a.note(ctx, "submit-operation", func(c *pending) { c.noteRequest(req) }, err)
	return out, err
}

func (a audited) CancelOperation(ctx context.Context, id string) (dataset.Operation, error) {
	op, err := a.Service.CancelOperation(ctx, id)
	a.note(ctx, "cancel-operation", func(c *pending) { c.Target = dataset.Clip(id) }, err)
	return op, err
}

func (a audited) Register(ctx context.Context, r api.Registration) error {
	err := a.Service.Register(ctx, r)
	a.note(ctx, "register-node",
		func(c *pending) { c.Node, c.Target = r.Node.ID.String(), dataset.Clip(r.Node.Name) }, err)
	return err
}

func (a audited) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	out, err := a.Service.Commit(ctx, node, r)
	a.note(ctx, "commit", func(c *pending) { c.Node = node.String(); c.noteReport(r.Operation) }, err)
	return out, err
}

func (a audited) Record(ctx context.Context, node uuid.UUID, r api.Report) error {
	err := a.Service.Record(ctx, node, r)
	a.note(ctx, "record", func(c *pending) { c.Node = node.String(); c.noteReport(r.Operation) }, err)
	return err
}

func (a audited) ReportSharedMount(ctx context.Context, node uuid.UUID, m api.SharedMountReport) (
	api.IndexedDataset, error) {
	out, err := a.Service.ReportSharedMount(ctx, node, m)
	a.note(ctx, "guest", func(c *pending) { c.Node = node.String() }, err)
	return out, err
}

func (a audited) Rebuild(ctx context.Context, node uuid.UUID, found []api.FoundDataset, dryRun bool) (
	[]api.Rebuilt, error) {
	out, err := a.Service.Rebuild(ctx, node, found, dryRun)
	a.note(ctx, "rebuild", func(c *pending) {
		c.Node = node.String()
		if dryRun {
			c.addDetail("", "dry run")
		}
	}, err)
	return out, err
}
