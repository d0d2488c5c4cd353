package agent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
)

// slowAfter is how long work on one dataset takes before doctor reports it. poolPatience is how long doctor waits
// for one pool.
const (
	slowAfter    = 5 * time.Second
	poolPatience = 10 * time.Second
)

// checkHung names the datasets on which work takes long, and what of it waits in the kernel, where nothing can
// end it. Other work continues beside it.
func (a *Agent) checkHung(r *diagnosis) {
	slow := a.Locks.HeldFor(slowAfter, a.Clock.Steady())
	if len(slow) == 0 {
		return
	}
	stuck := inKernel()
	for _, w := range slow {
		text := fmt.Sprintf("has been under way for %s", w.For.Round(time.Second))
		if len(stuck) == 0 {
			r.Add(findings.Info, w.What, "", "%s", text)
			continue
		}
		r.Add(findings.Warning, w.What, "look at the disk (dmesg), and for a frozen filesystem: fsfreeze -u",
			"%s, and %s in the kernel (state D), where nothing ends it", text, strings.Join(stuck, ", "))
	}
}

// checkPoolInTime is checkPool for a pool that may never answer.
func (a *Agent) checkPoolInTime(ctx context.Context, r *diagnosis, p *pool.Pool,
	known map[uuid.UUID]dataset.Dataset, sure bool) {
	own := &diagnosis{strange: r.strange, mend: r.mend}
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.checkPool(ctx, own, p, known, sure)
	}()
	select {
	case <-done:
		r.All, r.unknown = append(r.All, own.All...), r.unknown+own.unknown
	case <-a.Clock.After(poolPatience):
		r.Add(findings.Error, "pool "+p.Name, "look at its disk (dmesg)",
			"does not answer within %s: what it lies on hangs", poolPatience)
	}
}

// inKernel returns which threads of this process, and which commands that it runs, wait in the kernel and cannot
// be interrupted now: proc_pid_stat(5). Those that have ended meanwhile do not count.
func inKernel() (list []string) {
	threads := 0
	own, _ := filepath.Glob("/proc/self/task/*/stat")
	for _, file := range own {
		if s, ok := readStat(file); ok && s.state == "D" {
			threads++
		}
	}
	if threads > 0 {
		list = append(list, fmt.Sprintf("%d of drover's threads wait", threads))
	}
	others, _ := filepath.Glob("/proc/[0-9]*/stat")
	slices.SortFunc(others, func(x, y string) int { return cmp.Compare(len(x), len(y)) })
	for _, file := range others {
		if s, ok := readStat(file); ok && s.state == "D" && s.parent == os.Getpid() {
			list = append(list, fmt.Sprintf("%s (process %s) waits", s.name, filepath.Base(filepath.Dir(file))))
		}
	}
	return list
}

type procStat struct {
	name, state string
	parent      int
}

// readStat reads a stat file. The name in it can contain any character.
func readStat(file string) (s procStat, ok bool) {
	b, err := os.ReadFile(file)
	begin, end := strings.IndexByte(string(b), '('), strings.LastIndexByte(string(b), ')')
	if err != nil || begin < 0 || end < begin {
		return s, false
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 2 {
		return s, false
	}
	s.name, s.state = string(b[begin+1:end]), fields[0]
	s.parent, err = strconv.Atoi(fields[1])
	return s, err == nil
}
