package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

var _ plugin.Agent = (*Agent)(nil)

// find returns the volume for a spelling of this engine. It answers from memory for a volume whose home is this
// node, and asks control for any other. It returns ErrNotFound only if the store says so.
func (a *Agent) find(ctx context.Context, spelling string) (dataset.Dataset, error) {
	sp, err := dataset.ParseSpec(spelling)
	if err != nil {
		return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %w", err)
	}
	d, known := a.Cache.Volume(sp.Name)
	if !known {
		d, known = a.guestTable.Named(sp.Name)
	}
	if !known {
		v, err := a.Control.Volume(ctx, sp.Name)
		if errors.Is(err, dataset.ErrNotFound) {
			return dataset.Dataset{}, errors.Join(err, a.forgetName(ctx, sp.Name))
		}
		if err != nil {
			return dataset.Dataset{}, err
		}
		if v.Volume != sp.Name { // control accepts prefixes of UUIDs as well; an engine uses names
			return dataset.Dataset{}, dataset.Errorf(dataset.ErrNotFound, "no such volume: %s", sp.Name)
		}
		d = v.Dataset
	}
	if slices.Contains(a.used(d), spelling) {
		return d, nil
	}
	switch {
	case sp.Profile != "" && sp.Profile != d.Profile.Name:
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s has profile %s, not %s", d.Volume, d.Profile.Name,
			sp.Profile)
	case sp.From != "" && !cloneOf(d, sp.From):
		return d, dataset.Errorf(dataset.ErrNotFound, "volume %s is not a clone of %s", d.Volume, sp.From)
	}
	return d, nil
}

func cloneOf(d dataset.Dataset, prefix string) bool {
	return d.Origin != nil && (strings.HasPrefix(d.Origin.Snapshot.String(), prefix) && !d.Origin.Implicit ||
		strings.HasPrefix(d.Origin.Dataset.String(), prefix) && d.Origin.Implicit)
}

// Get returns the volume for a spelling. It fails with ErrNotFound for a spelling that this engine has never used
// and that contradicts the volume: the engine then calls Create, which reports the contradiction.
func (a *Agent) Get(ctx context.Context, spelling string) (plugin.Volume, error) {
	d, err := a.find(ctx, spelling)
	if err != nil {
		return plugin.Volume{}, err
	}
	v := plugin.Volume{Name: spelling, CreatedAt: d.Created, Status: a.statusMap(ctx, d)}
	if d.Home == a.NodeID || d.Profile.Access == dataset.AccessMany {
		v.Mountpoint = a.MountPath(d.ID)
	}
	return v, nil
}

// statusMap returns what docker volume inspect prints as Status.
func (a *Agent) statusMap(ctx context.Context, d dataset.Dataset) map[string]any {
	m := map[string]any{
		"dataset": d.ID, "volume": d.Volume, "profile": d.Profile.Name, "revision": d.Profile.Revision,
		"node": a.NodeName, "pool": a.pools.Name(d.Pool),
	}
	if d.Size > 0 {
		m["size"] = int64(d.Size)
	}
	if d.Origin != nil {
		m["origin"] = d.Origin
	}
	if d.Protected {
		m["protected"] = true
	}
	if d.ReadOnly {
		m["readonly"] = true
	}
	if len(d.Labels) > 0 {
		m["labels"] = d.Labels
	}
	if d.Home != a.NodeID {
		m["node"] = a.nodes.Name(d.Home)
		if _, guest := a.guestTable.Get(d.ID); guest {
			m["guest"], m["mounts"] = a.NodeName, a.engines.MountsOf(a.uses.Get(d.ID))
		}
		return m
	}
	st := a.datasetStatus(ctx, d)
	m["used"], m["mounted"], m["mounts"] = int64(st.Used), st.Mounted, st.Mounts
	if st.Mounts == nil {
		m["mounts"] = []dataset.Mount{}
	}
	problem := st.Problem
	if list, err := a.snapshotList(ctx, d); err != nil {
		problem = strings.TrimPrefix(problem+"; its snapshots are not known: "+err.Error(), "; ")
	} else {
		m["snapshots"] = list
	}
	if problem != "" {
		m["problem"] = problem
	}
	return m
}

// snapshotsShown is the maximum number of snapshots in Status: the newest ones.
const snapshotsShown = 20

// snapshotTime is how long control may take to list the snapshots. The start of a container asks five times for
// its volume, and does not need them.
const snapshotTime = time.Second

func (a *Agent) snapshotList(ctx context.Context, d dataset.Dataset) ([]map[string]any, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, snapshotTime,
		dataset.Errorf(dataset.ErrUnavailable, "control did not answer within %s", snapshotTime))
	defer cancel()
	var newest []dataset.Snapshot
	for page := (api.Page{}); ; {
		list, err := a.Control.Snapshots(ctx, d.ID.String(), page)
		if err != nil {
			return nil, err
		}
		newest = append(newest, list.Items...)
		newest = newest[max(0, len(newest)-snapshotsShown):]
		if page.After = list.Next; page.After == "" {
			break
		}
	}
	out := []map[string]any{}
	for _, s := range newest {
		e := map[string]any{"id": s.ID, "created": s.Created.Format(time.RFC3339)}
		if s.Name != "" {
			e["name"] = s.Name
		}
		out = append(out, e)
	}
	return out, nil
}

// Path returns where a volume is, or will be, mounted.
func (a *Agent) Path(ctx context.Context, spelling string) (string, error) {
	d, err := a.find(ctx, spelling)
	if err != nil {
		return "", err
	}
	return a.MountPath(d.ID), nil
}

// Create makes sure that a volume exists as requested. Any number of identical requests at the same time make one
// dataset, and all of them succeed.
func (a *Agent) Create(ctx context.Context, spelling string, opts map[string]string) error {
	req := api.Request{Kind: dataset.OpCreate, Volume: spelling, Options: opts, Engine: true}
	sp, err := dataset.ParseSpec(spelling)
	if err != nil {
		if _, told := a.Control.Plan(ctx, a.NodeID, req); errors.Is(told, dataset.ErrInvalid) {
			return told // the error names the profiles that exist
		}
		return err
	}
	_, err = a.makeVolume(ctx, req, sp.Name)
	return err
}

// makeVolume executes a request that makes a volume, one at a time for each name. A request that has waited is
// planned again, and finds the volume or is refused.
func (a *Agent) makeVolume(ctx context.Context, req api.Request, name string) (dataset.Dataset, error) {
	what := fmt.Sprintf("%s of volume %s", req.Kind, name)
	for {
		var made dataset.Dataset // read only if the job has ended without an error
		joined, err := a.Jobs.Do(ctx, "name/"+name, what, func(ctx context.Context, jb *jobs.Job) error {
			d, err := a.makeOnce(ctx, jb, req)
			made = d
			return err
		})
		switch {
		case errors.Is(err, dataset.ErrPending):
			return dataset.Dataset{}, err
		case joined:
			plan, perr := a.plan(ctx, req)
			if perr != nil || plan.Done != nil {
				return a.found(ctx, plan, perr, req)
			}
		case errors.Is(err, operation.ErrLost):
		case err != nil:
			return dataset.Dataset{}, err
		default:
			return made, a.learn(ctx, made, req)
		}
	}
}

// found answers a request that came after the one that made the volume.
func (a *Agent) found(ctx context.Context, p api.Plan, err error, req api.Request) (dataset.Dataset, error) {
	if err != nil {
		return dataset.Dataset{}, err
	}
	return *p.Done, a.learn(ctx, *p.Done, req)
}

func (a *Agent) makeOnce(ctx context.Context, jb *jobs.Job, req api.Request) (d dataset.Dataset, err error) {
	jb.Step("planning")
	req.ID = uuid.New()
	plan, err := a.plan(ctx, req)
	if err != nil {
		return d, err
	}
	if plan.Done != nil {
		return *plan.Done, nil
	}
	if plan.Operation.Node != a.NodeID {
		return a.requester.Make(ctx, jb, req)
	}
	out, err := a.executor.Execute(ctx, jb, *plan.Operation)
	if err != nil {
		return d, err
	}
	if out.Lost {
		return d, operation.ErrLost
	}
	return *out.Dataset, nil
}

// unmountedByEngine fails with ErrInUse while a dataset has a recorded use. It waits for the dataset's lock only
// if a look at the host may show that a use has ended.
func (a *Agent) unmountedByEngine(ctx context.Context, d dataset.Dataset) error {
	r := a.uses.Get(d.ID)
	if r.HasEnded() {
		unlock, err := a.Locks.Lock(ctx, d.ID, "removal of volume "+d.Volume)
		if err != nil {
			return err
		}
		defer unlock()
		if err := a.verifier.CheckEnded(ctx, d, "remove"); err != nil {
			return err
		}
		r = a.uses.Get(d.ID)
	}
	if len(r.IDs) > 0 {
		return a.verifier.InUseError(d, "remove", r)
	}
	return nil
}

// Remove deletes a volume, or only forgets one of its spellings while the engine uses another. It fails while the
// volume is mounted, whoever calls it.
func (a *Agent) Remove(ctx context.Context, spelling string) error {
	d, err := a.find(ctx, spelling)
	if errors.Is(err, dataset.ErrNotFound) && d.ID == uuid.Nil {
		return nil
	}
	if err != nil {
		return err
	}
	if err := a.unmountedByEngine(ctx, d); err != nil {
		return err
	}
	tool := plugin.ToolOf(ctx)
	if err := a.removableBy(tool, d, spelling); err != nil {
		return err
	}
	if another, err := a.unspell(ctx, tool, d, spelling); err != nil || another {
		return err
	}
	if err := a.perform(ctx, api.Request{Kind: dataset.OpDelete, Volume: d.Volume}); err != nil {
		return err
	}
	return a.forgetName(ctx, d.Volume) // if its home, which has deleted it, is another node
}

// perform plans a request for an existing volume and executes it here.
func (a *Agent) perform(ctx context.Context, req api.Request) error {
	what := fmt.Sprintf("%s of volume %s", req.Kind, req.Volume)
	req.ID = uuid.New()
	_, err := a.Jobs.Do(ctx, "op/"+req.ID.String(), what, func(ctx context.Context, jb *jobs.Job) error {
		jb.Step("planning")
		plan, err := a.plan(ctx, req)
		if err != nil || plan.Done != nil {
			return err
		}
		if plan.Operation.Node != a.NodeID {
			out, err := a.requester.Do(ctx, jb, req)
			if err != nil || out.Operation == nil {
				return err
			}
			return operation.Outcome(*out.Operation)
		}
		_, err = a.executor.Execute(ctx, jb, *plan.Operation)
		return err
	})
	return err
}

// Help is what docker volume create -o help prints.
func (a *Agent) Help(ctx context.Context) string {
	var b strings.Builder
	b.WriteString("options:\n")
	for _, o := range dataset.OptionHelp() {
		fmt.Fprintf(&b, "  %-24s %s\n", o.Name+"="+o.Value, o.Help)
	}
	profiles, err := a.Control.Profiles(ctx)
	if err != nil {
		fmt.Fprintf(&b, "profiles: %v\n", err)
		return b.String()
	}
	b.WriteString("profiles:\n")
	for _, p := range profiles {
		fmt.Fprintf(&b, "  %-24s %s\n", p.Name, p.Description)
	}
	return b.String()
}
