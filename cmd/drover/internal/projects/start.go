package projects

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
)

// start makes each container of the project mount what the Compose files say, starts the services that ran before, and
// waits until their containers run. Until Journal.Started is set, no container has used the new volumes.
func (m *mover) start(ctx context.Context) error {
	model, err := m.model(ctx)
	if err != nil {
		return err
	}
	all, err := containers(ctx, m.engine)
	if err != nil {
		return err
	}
	if c := model.runsWrong(m.j.Project, all); c != "" {
		return dataset.Errorf(dataset.ErrConflict, "container %s runs with the old data, and what it wrote is not in "+
			"the new volumes (to drop that: docker stop %s)", c, c)
	}
	if stale := model.stale(m.j.Project, all); len(stale) > 0 {
		if err := m.host.Compose.Recreate(ctx, m.j.Project, stale); err != nil {
			return fmt.Errorf("%w (or remove the containers of %s: docker compose rm)", err, names(stale))
		}
	}
	m.host.At("recreated")
	if err := m.checkMounts(ctx, model); err != nil {
		return err
	}
	if len(m.j.Services) == 0 {
		return nil
	}
	m.j.Started = true
	if err := m.j.save(); err != nil {
		return err
	}
	if err := m.host.Compose.Up(ctx, m.j.Project, m.j.Services); err != nil {
		return err
	}
	m.host.At("up")
	if err := m.checkMounts(ctx, model); err != nil {
		return m.stopAgain(ctx, err)
	}
	return m.awaitRunning(ctx, m.j.Services)
}

// model returns what Docker Compose reads in the present Compose files.
func (m *mover) model(ctx context.Context) (model, error) {
	text, err := m.host.Compose.Config(ctx, m.j.Project, m.j.Project.Files)
	if err != nil {
		return model{}, err
	}
	return parseModel(text)
}

// checkMounts fails if a container of the project mounts something else than the present Compose files say.
func (m *mover) checkMounts(ctx context.Context, model model) error {
	all, err := containers(ctx, m.engine)
	if err != nil {
		return err
	}
	for _, c := range all {
		if target := model.wrongMount(m.j.Project, c); target != "" {
			return dataset.Errorf(dataset.ErrConflict, "container %s does not mount at %s what the Compose files say, "+
				"although Docker Compose has recreated it (remove it: docker rm -f %s)", c.Name, target, c.Name)
		}
	}
	return nil
}

// stopAgain stops the project, because a container uses the wrong data.
func (m *mover) stopAgain(ctx context.Context, cause error) error {
	if err := m.host.Compose.Stop(ctx, m.j.Project); err != nil {
		return fmt.Errorf("%w; it cannot be stopped either: %w", cause, err)
	}
	return cause
}

const (
	checkPause  = time.Second
	checkSteady = 5   // checks in a row in which all containers must run
	checkLimit  = 120 // checks
)

// awaitRunning waits until the containers of services run, and none of them restarts or is unhealthy.
func (m *mover) awaitRunning(ctx context.Context, services map[string]int) error {
	problem, steady := "", 0
	for range checkLimit {
		all, err := containers(ctx, m.engine)
		if err != nil {
			return err
		}
		if problem = m.notRunning(all, services); problem == "" {
			steady++
		} else {
			steady = 0
		}
		if steady == checkSteady {
			return nil
		}
		if err := m.a.Sleep(ctx, checkPause); err != nil {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrConflict, "%s (docker compose logs shows why)", problem)
}

// notRunning returns what is wrong with the containers of services, or "".
func (m *mover) notRunning(all []Container, services map[string]int) string {
	count := map[string]int{}
	for _, c := range all {
		if c.Project != m.j.Project.Name || c.OneOff || services[c.Service] == 0 {
			continue
		}
		switch {
		case c.State != "running":
			return fmt.Sprintf("container %s does not run: it is %s", c.Name, c.State)
		case c.Health == "unhealthy" || c.Health == "starting":
			return fmt.Sprintf("container %s is not healthy: it is %s", c.Name, c.Health)
		}
		count[c.Service]++
	}
	for _, s := range slices.Sorted(maps.Keys(services)) {
		if count[s] < services[s] {
			return fmt.Sprintf("service %s has %d of %d containers", s, count[s], services[s])
		}
	}
	return ""
}

// names joins the names of services.
func names(services map[string]int) string {
	return strings.Join(slices.Sorted(maps.Keys(services)), ", ")
}
