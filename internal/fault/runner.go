package fault

import (
	"context"
	"fmt"
	"strings"

	"github.com/droverhq/drover/internal/run"
)

// Runner passes commands on to Next. During Run each counts as two calls: its start, which fails
// without that the command runs, and its end, which fails although it has done its work.
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
