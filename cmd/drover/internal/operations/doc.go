// Package operations has the commands of drover operation.
package operations
