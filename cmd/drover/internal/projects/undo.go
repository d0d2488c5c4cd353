package projects

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// undone is the result of an undo.
type undone struct {
	edited   []string // the names of Compose files that were edited after the exchange, under which they are kept
	warnings []string
	// problem says which services did not start. The undo is complete all the same.
	problem error
}

// undo goes back: it stops the containers, puts the old files back, and starts what ran. The new volumes stay. Once the
// files are back, the undo ends and removes the journal, also if a service does not start: nothing that the command
// could repeat would help then. Only an interruption leaves the journal, and the same command continues.
func (m *mover) undo(ctx context.Context) (undone, error) {
	var u undone
	all, err := containers(ctx, m.engine)
	if err != nil {
		return u, err
	}
	if !m.j.Undoing {
		m.j.Undoing = true
		if m.j.Services == nil {
			m.j.Services = map[string]int{}
		}
		for s, n := range running(m.j.Project.Name, all) {
			m.j.Services[s] = max(n, m.j.Services[s])
		}
		if err := m.j.save(); err != nil {
			return u, err
		}
	}
	m.host.At("undo")
	u.warnings = m.cancelImports(ctx)
	if err := m.host.Compose.Stop(ctx, m.j.Project); err != nil {
		return u, err
	}
	m.host.At("undo.stopped")
	for _, x := range m.j.Files {
		name, err := x.undo(m.host)
		if err != nil {
			return u, err
		}
		if name != "" {
			u.edited = append(u.edited, name)
		}
		m.host.At("undo.restored")
	}
	u.problem = m.startOld(ctx)
	if err := ctx.Err(); err != nil {
		return u, dataset.Errorf(dataset.ErrCancelled, "the old Compose files are back, and not all containers are "+
			"started: %w", err)
	}
	return u, m.j.remove()
}

// startOld starts the services that ran, with the old Compose files. A service that fails does not prevent that the
// others start. The error has all that did not start.
func (m *mover) startOld(ctx context.Context) error {
	model, err := m.model(ctx)
	if err != nil {
		return err
	}
	all, err := containers(ctx, m.engine)
	if err != nil {
		return err
	}
	var problems []string
	services := maps.Clone(m.j.Services)
	for _, s := range slices.Sorted(maps.Keys(services)) {
		if _, known := model.services[s]; !known {
			problems = append(problems, "service "+s+" is not in the old Compose files")
			delete(services, s)
		}
	}
	fail := func(failed map[string]int, err error) {
		if len(failed) > 0 {
			problems = append(problems, "did not start: "+names(failed)+": "+err.Error())
		}
		maps.DeleteFunc(services, func(s string, _ int) bool { _, is := failed[s]; return is })
	}
	fail(m.each(ctx, model.stale(m.j.Project, all), m.host.Compose.Recreate))
	m.host.At("undo.recreated")
	fail(m.each(ctx, services, m.host.Compose.Up))
	m.host.At("undo.up")
	if all, err = containers(ctx, m.engine); err != nil {
		return err
	}
	if c := model.runsWrong(m.j.Project, all); c != "" {
		problems = append(problems, m.stopAgain(ctx, dataset.Errorf(dataset.ErrConflict, "container %s used the new "+
			"volumes, so the project is stopped", c)).Error())
	} else if err := m.awaitRunning(ctx, services); err != nil {
		problems = append(problems, err.Error())
	}
	if len(problems) == 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict, "%s", strings.Join(problems, "; "))
}

// each calls do with all services. If that fails, it calls do with one service at a time, and returns the services for
// which do failed, with the last error.
func (m *mover) each(ctx context.Context, services map[string]int,
	do func(context.Context, Project, map[string]int) error) (failed map[string]int, err error) {
	if len(services) == 0 || do(ctx, m.j.Project, services) == nil {
		return nil, nil
	}
	failed = map[string]int{}
	for _, s := range slices.Sorted(maps.Keys(services)) {
		if one := do(ctx, m.j.Project, map[string]int{s: services[s]}); one != nil {
			failed[s], err = services[s], one
		}
	}
	return failed, err
}

// cancelImports cancels the imports that still run, and returns a warning for each one that it cannot cancel. Such an
// import only reads the old data, and its volume is never used. After the step verify, no import runs.
func (m *mover) cancelImports(ctx context.Context) (warnings []string) {
	if m.j.Settings.Leave || !slices.Contains([]Step{StepStop, StepCopy, StepVerify}, m.j.Step) {
		return nil
	}
	for _, i := range m.j.Items {
		if err := m.cancelImport(ctx, i); err != nil {
			warnings = append(warnings, "the import into volume "+i.Volume+" may still run, and make the volume: "+
				err.Error())
		}
	}
	return warnings
}

func (m *mover) cancelImport(ctx context.Context, i Item) error {
	if m.remote == nil {
		return dataset.Errorf(dataset.ErrUnavailable, "there is no connection to Drover")
	}
	op, err := m.remote.Operation(ctx, i.Request.String(), 0)
	if errors.Is(err, dataset.ErrNotFound) || err == nil && op.State.Final() {
		return nil
	}
	if err == nil {
		_, err = m.remote.CancelOperation(ctx, op.ID.String())
	}
	return err
}
