package failurelog

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
)

func TestLevels(t *testing.T) {
	for _, c := range []struct {
		err                error
		request, operation logrus.Level
	}{
		{nil, logrus.DebugLevel, logrus.DebugLevel},
		{dataset.Errorf(dataset.ErrInvalid, "x"), logrus.InfoLevel, logrus.WarnLevel},
		{dataset.Errorf(dataset.ErrInUse, "x"), logrus.InfoLevel, logrus.WarnLevel},
		{dataset.Errorf(dataset.ErrCancelled, "x"), logrus.InfoLevel, logrus.InfoLevel},
		{dataset.Errorf(dataset.ErrPending, "x"), logrus.InfoLevel, logrus.WarnLevel},
		{dataset.Errorf(dataset.ErrNoSpace, "x"), logrus.WarnLevel, logrus.WarnLevel},
		{dataset.Errorf(dataset.ErrOffline, "x"), logrus.WarnLevel, logrus.WarnLevel},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), logrus.WarnLevel, logrus.WarnLevel},
		{fmt.Errorf("x: %w", context.Canceled), logrus.InfoLevel, logrus.InfoLevel},
		{dataset.Errorf(dataset.ErrCorrupt, "x"), logrus.ErrorLevel, logrus.ErrorLevel},
		{errors.New("x"), logrus.ErrorLevel, logrus.ErrorLevel},
	} {
		if got := LevelOf(c.err); got != c.request {
			t.Errorf("request, %v: %s, want %s", c.err, got, c.request)
		}
		if got := LevelOfOperation(c.err); got != c.operation {
			t.Errorf("operation, %v: %s, want %s", c.err, got, c.operation)
		}
	}
}

func TestMarkLogged(t *testing.T) {
	err := fmt.Errorf("mount: %w", MarkLogged(MarkLogged(dataset.Errorf(dataset.ErrCorrupt, "bad"))))
	if err.Error() != "mount: bad" || dataset.KindOf(err) != dataset.ErrCorrupt || LevelOf(err) != logrus.DebugLevel {
		t.Fatal(err, dataset.KindOf(err), LevelOf(err))
	}
	if MarkLogged(nil) != nil {
		t.Fatal("no error was marked")
	}
}
