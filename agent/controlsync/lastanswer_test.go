package controlsync_test

import (
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
)

// TestLastAnswerSurvivesRestart: an agent that starts while control is unreachable knows how old its records are.
func TestLastAnswerSurvivesRestart(t *testing.T) {
	r := agenttest.New(t)
	agenttest.Await(t, func() bool { return !r.Reporter.LastAnswer().IsZero() })
	r.Link.Cut()
	at := r.Reporter.LastAnswer()
	r.Restart()
	if got := r.Reporter.LastAnswer(); got.Before(at) || got.Sub(at).Minutes() > 1 {
		t.Errorf("control last answered at %v, want %v", got, at)
	}
}
