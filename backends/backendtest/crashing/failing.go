package crashing

import (
	"testing"

	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/internal/fault"
	"github.com/droverhq/drover/internal/long"
)

// FailingCalls runs the cases with failing system calls as subtests of t with the given name. It needs root.
func FailingCalls(t *testing.T, name string, factory backendtest.Factory[*testing.T]) {
	FailingCallsEvery(t, name, 1, factory)
}

// FailingCallsEvery is FailingCalls, but in the short form of the test run (see package long) it tests only each nth
// system call. Both test all of backendtest.Failing only in the long form.
func FailingCallsEvery(t *testing.T, name string, n int, factory backendtest.Factory[*testing.T]) {
	inject := func(f backendtest.Failure, do func()) (calls []string, err error) {
		return fault.Run(fault.Failure{At: f.At, Errno: f.Errno, Onwards: f.Onwards}, do)
	}
	backendtest.Failing(t, name, factory, inject, long.Rounds(n, 0))
}
