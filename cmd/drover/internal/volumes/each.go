package volumes

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// submitEach sends requests about snapshots one after the other, and prints the outcome of each. If one of several
// requests fails, it prints the error and continues with the next one. After an interrupt it stops. done says what the
// requests do, for the error about those that failed, such as "deleted".
func submitEach(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, reqs []api.Request, done string,
	describe func(api.Request, api.Outcome) (uuid.UUID, string)) error {
	var outs []api.Outcome
	failed := 0
	for _, req := range reqs {
		out, err := a.Submit(ctx, c, o, req)
		if err != nil && len(reqs) == 1 {
			return err
		}
		if errors.Is(err, dataset.ErrCancelled) {
			return a.ReportInterrupt(o, outs, out, err)
		}
		if err != nil {
			failed++
			a.PrintError(ctx, err)
			continue
		}
		if outs = append(outs, out); o.JSON() && len(reqs) > 1 {
			continue
		}
		err = a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) { return describe(req, out) })
		if err != nil {
			return err
		}
	}
	if o.JSON() && len(reqs) > 1 {
		if err := cli.JSONList(a.Out, outs); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d snapshots were not %s", failed, len(reqs), done)
	}
	return nil
}
