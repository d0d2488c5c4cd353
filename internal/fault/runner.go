package fault

import (
	"context"
	"fmt"
	"strings"

	"github.com/droverhq/drover/internal/run"
)

// Runner passes commands on to Next. During Run each command counts as two calls. If the first call fails, the command
// does not run. If the second call fails, the command has done its work, but Run returns an error. Safe
// for concurrent use.
type Runner struct{ Next run.Runner }

// Run implements run.Runner.
func (r Runner) Run(ctx context.Context, c run.Command) (run.Result, error) {
	w := running.Load()
	if w == nil {
		return r.Next.Run(ctx, c)
	}
	name := c.Name
	if len(c.Args) > 0 && !strings.HasPrefix(c.Args[0], "-") {
		name += " " + c.Args[0]
	}
	if w.fails("start of " + name) {
		return run.Result{}, fmt.Errorf("run %s: %w", name, w.Errno)
	}
	res, err := r.Next.Run(ctx, c)
	if err == nil && w.fails("end of "+name) {
		err = fmt.Errorf("run %s: %w", name, w.Errno)
	}
	return res, err
}
